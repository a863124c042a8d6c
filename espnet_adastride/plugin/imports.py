"""Import ESPnet without what it seldom uses, in about half the time.

ESPnet imports much that few commands need: torch's compiler, transformers, packages
for phonemes and logging. And the plugin changes the modules of eight tasks, of which a
process uses one. So:

* :func:`import_light` imports a module of ESPnet with stand-ins for what it seldom
  uses, which load the real thing when they are used. Importing this file imports the
  modules of :data:`STAND_INS` in that way, before ``espnet.py`` imports the rest;
* :func:`after_import` changes a module when it is imported, not before;
  :func:`over` puts a function of ours in place of one of ESPnet's.

Stand-ins change nothing in ESPnet. Where a package is missing, the error is ESPnet's.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Callable, Dict, List

#: not imported here: it may still be run as a program (``python -m``)
RECOGNITION = "espnet2.bin.asr_inference"

_BEATS = (
    "transformers.models.bart.modeling_bart",
    "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer",
)

#: module of ESPnet -> what it imports and seldom uses: names that it calls or asks
#: ``isinstance`` for. In this order: most of the others import the first.
STAND_INS = {
    "espnet2.legacy.nets.pytorch_backend.nets_utils": ("torch._dynamo",),
    "espnet2.asr.decoder.hugging_face_transformers_decoder": (
        "transformers",
        "transformers.file_utils",
    ),
    "espnet2.asr.encoder.beats_encoder": _BEATS,
    "espnet2.asr.frontend.espnet_ssl": ("espnet2.tasks.ssl",),
    "espnet2.asr.postencoder.hugging_face_transformers_postencoder": ("transformers",),
    "espnet2.beats.encoder": _BEATS,
    "espnet2.layers.create_adapter_fn": (
        "transformers.models.wav2vec2.modeling_wav2vec2",
    ),
    "espnet2.main_funcs.calculate_all_attentions": ("espnet2.gan_tts.jets.alignments",),
    "espnet2.text.hugging_face_token_id_converter": ("transformers",),
    "espnet2.text.hugging_face_tokenizer": ("transformers",),
    "espnet2.text.qwen2audio_tokenizer": ("transformers",),
    "espnet2.text.phoneme_tokenizer": ("g2p_en",),  # looks for downloads when imported
    "espnet2.tasks.abs_task": ("wandb",),
    RECOGNITION: ("transformers", "transformers.file_utils"),
}


class _Late:
    """Stands for a name of a module that is imported when the name is first used."""

    def __init__(self, module: str, name: str):
        self.__dict__.update(_module=module, _name=name)

    def _real(self):
        return getattr(importlib.import_module(self._module), self._name)

    def __getattr__(self, name):
        return getattr(self._real(), name)

    def __call__(self, *args, **kwargs):
        return self._real()(*args, **kwargs)

    def __instancecheck__(self, thing):
        # there are no instances of a class in a module that nobody has imported
        return self._module in sys.modules and isinstance(thing, self._real())


def _disable_compiler(function, recursive=True, reason=None):
    """Do what ``torch.compiler.disable`` does, once the compiler is imported.

    Until then nothing is compiled. torch would import the compiler here, a quarter of
    all that ESPnet 202611 imports.
    """
    disabled = None

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if disabled is None:
            import torch

            disabled = torch.compiler.disable(function, recursive, reason=reason)
        return disabled(*args, **kwargs)

    return wrapper


class _StandIn(ModuleType):
    """Stands for a module that a module of ESPnet imports, or takes names from."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        real = sys.modules.get(self.__name__, self)
        if real is not self:  # it has been imported since
            return getattr(real, name)
        return _Late(self.__name__, name)


def import_light(name: str) -> ModuleType:
    """Import a module of ESPnet, with stand-ins for what it seldom uses."""
    made = {}
    for module in STAND_INS.get(name, ()):
        top = module.partition(".")[0]
        if module not in sys.modules and importlib.util.find_spec(top) is not None:
            made[module] = _StandIn(module)
            if module == "torch._dynamo":
                made[module].disable = _disable_compiler
    sys.modules.update(made)
    try:
        return importlib.import_module(name)
    finally:
        for module in made:
            del sys.modules[module]


for _name in STAND_INS:
    if _name != RECOGNITION:
        with contextlib.suppress(ImportError):  # not in this release of ESPnet
            import_light(_name)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds the modules that functions wait for, and calls these after the import."""

    def __init__(self):
        self.functions: Dict[str, List[Callable]] = {}

    def find_spec(self, name, path=None, target=None):
        """Return the spec of a module that a function waits for, None for others."""
        if name not in self.functions:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                for function in self.functions[name]:
                    function(module)

            spec.loader.exec_module = exec_module
        return spec


_AFTER_IMPORT = _AfterImport()
sys.meta_path.insert(0, _AFTER_IMPORT)


def after_import(name: str, function: Callable[[ModuleType], None]) -> None:
    """Call a function with a module when it is imported; at once if it is already.

    Args:
        name: of the module.
        function: a second call with the same module must change nothing.
    """
    waiting = _AFTER_IMPORT.functions.setdefault(name, [])
    if function not in waiting:
        waiting.append(function)
    if name in sys.modules:
        function(sys.modules[name])


def over(stock: Callable, ours: Callable) -> Callable:
    """Return what to put in place of a function of ESPnet; itself if that was done.

    Args:
        stock: ESPnet's.
        ours: called instead, with ``stock`` before its arguments.
    """
    if hasattr(stock, "is_ours"):
        return stock

    @functools.wraps(stock)
    def wrapper(*args, **kwargs):
        return ours(stock, *args, **kwargs)

    wrapper.is_ours = True
    return wrapper
