"""Import of ESPnet only what is used, and no more.

ESPnet imports much that few commands need: packages for phonemes and logging, the task
``ssl`` for one of its front ends. And the plugin has words for eight tasks, of which a
process uses one. So:

* :func:`after_import` changes a module of ESPnet when it is imported, not before;
* packages that are used on demand are loaded then (:data:`LATE`);
* modules that need one name of another, and seldom, get a stand-in for it, which loads
  the real one when it is used (:data:`STAND_INS`).

Importing this module is enough. Nothing of ESPnet is changed by it: the same modules
run, some of them later, most of them never. Where a package is missing, the error is
the one that ESPnet would give.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Callable, Dict, List

#: packages that ESPnet imports as a whole and uses on demand, of which g2p_en looks for
#: downloads when it is imported
LATE = ("g2p_en", "wandb")


class _Late:
    """Stands for an object of a module that is imported when it is first used."""

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
    """Do as ``torch.compiler.disable``, once there is a compiler.

    It imports the compiler, a quarter of all that ESPnet 202611 imports. While nobody
    has, nothing is compiled, and there is nothing to be kept from it.
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


_AUTO = {"transformers": ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM")}
_OUTPUT = {**_AUTO, "transformers.file_utils": ("ModelOutput",)}
_TOKENIZER = {"transformers": ("AutoTokenizer", "AutoProcessor")}
_BEATS = {
    "transformers.models.bart.modeling_bart": ("BartLearnedPositionalEmbedding",),
    "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer": (
        "Wav2Vec2ConformerConfig",
        "Wav2Vec2ConformerEncoder",
    ),
}

#: module of ESPnet -> {module: names in it that it imports, and calls on demand or asks
#: ``isinstance`` for}
STAND_INS = {
    "espnet2.asr.decoder.hugging_face_transformers_decoder": {
        **_OUTPUT,
        "transformers": (*_AUTO["transformers"], "AutoTokenizer"),
    },
    "espnet2.asr.encoder.beats_encoder": _BEATS,
    "espnet2.asr.frontend.espnet_ssl": {"espnet2.tasks.ssl": ("SSLTask",)},
    "espnet2.asr.postencoder.hugging_face_transformers_postencoder": _AUTO,
    "espnet2.beats.encoder": _BEATS,
    "espnet2.bin.asr_inference": _OUTPUT,
    "espnet2.layers.create_adapter_fn": {
        "transformers.models.wav2vec2.modeling_wav2vec2": (
            "Wav2Vec2EncoderLayerStableLayerNorm",
        )
    },
    "espnet2.legacy.nets.pytorch_backend.nets_utils": {"torch._dynamo": ("disable",)},
    "espnet2.main_funcs.calculate_all_attentions": {
        "espnet2.gan_tts.jets.alignments": ("AlignmentModule",)
    },
    "espnet2.text.hugging_face_token_id_converter": _TOKENIZER,
    "espnet2.text.hugging_face_tokenizer": _TOKENIZER,
    "espnet2.text.qwen2audio_tokenizer": _TOKENIZER,
}


class _Loader(importlib.abc.Loader):
    """A module's own loader, which calls functions when the module is there."""

    def __init__(self, loader, name: str):
        self._loader, self._name = loader, name

    def __getattr__(self, name):  # get_code, get_source ...
        return getattr(self._loader, name)

    def create_module(self, spec):
        """Make the module as its loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module):
        """Run the module as its loader does, then what waits for it."""
        module.__spec__.loader = module.__loader__ = self._loader
        with _stand_ins(self._name):
            self._loader.exec_module(module)
        for function in FINDER.functions.get(self._name, []):
            function(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as the finders behind it do, and has some loaded in our way."""

    def __init__(self):
        self.functions: Dict[str, List[Callable]] = {}

    def find_spec(self, name, path=None, target=None):
        """Return the spec of a module that we load in our way; None for all others."""
        if not any(name in ours for ours in (self.functions, LATE, STAND_INS)):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        if spec.loader is None:
            return spec
        if name in LATE:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        else:
            spec.loader = _Loader(spec.loader, name)
        return spec


FINDER = _Finder()


@contextlib.contextmanager
def _stand_ins(importer: str):
    """Have a module find stand-ins while it is run, for what is not imported yet."""
    made = {}
    for module, names in STAND_INS.get(importer, {}).items():
        top = module.partition(".")[0]
        if module in sys.modules or importlib.util.find_spec(top) is None:
            continue
        made[module] = ModuleType(module)
        for name in names:
            late = _disable_compiler if name == "disable" else _Late(module, name)
            setattr(made[module], name, late)
    sys.modules.update(made)
    try:
        yield
    finally:
        for module in made:
            del sys.modules[module]


sys.meta_path.insert(0, FINDER)


def after_import(name: str, function: Callable[[ModuleType], None]) -> None:
    """Call a function with a module when it is imported; at once if it is already.

    Args:
        name: of the module.
        function: a second call with the same module must change nothing.
    """
    waiting = FINDER.functions.setdefault(name, [])
    if function not in waiting:
        waiting.append(function)
    if name in sys.modules:
        function(sys.modules[name])
