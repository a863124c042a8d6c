"""Packages that commands need beyond torch, and the extra that each belongs to.

``pip install espnet_adastride`` brings the layer and torch. Where a package of an extra
is not installed, the commands still answer ``--help``, and name the missing package
in one line when they need it: :func:`name_missing_packages` gives this package's own
modules a stand-in for it. Other packages, and Python code that imports this one, get
Python's own ModuleNotFoundError.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Optional

from espnet_adastride.errors import fail

#: package -> the extra of pyproject.toml that brings it
EXTRAS = {
    **dict.fromkeys(
        "espnet2 jinja2 jiwer markupsafe matplotlib numpy scipy sentencepiece "
        "soundfile soxr torchaudio torcheval tqdm yaml".split(),
        "espnet",
    ),
    "ctranslate2": "pretrained",
    "espeakng_loader": "demo",
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
    "transformers": "pretrained",
    "vector_quantize_pytorch": "vqvae",
}
#: packages without a stand-in: classes of ours inherit from theirs
NEEDED_AT_ONCE = ("espnet2",)


def describe_missing(package: str) -> str:
    """Return one line on a missing package: how to get it."""
    extra = EXTRAS[package]
    shown = {"espnet2": "ESPnet"}
    release = "{}.{}".format(*sys.version_info)
    return (
        f"{shown.get(package, package)} is not installed, which this needs: pip "
        f"install -e '.[{extra}]' -c constraints/python{release}.txt, in the folder of "
        f"this project (elsewhere: pip install 'espnet_adastride[{extra}]')"
    )


class _Missing:
    """A name in a package that is not installed; using it ends in one line."""

    def __init__(self, package: str):
        self.__dict__["_package"] = package

    def __call__(self, *args, **kwargs):
        """End the process with one line; a module's constants are let through."""
        if sys._getframe(1).f_code.co_name == "<module>":
            return self  # it may never be used
        # no exception that code which skips bad recordings would catch
        fail(describe_missing(self._package))

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self  # np.random.Generator in an annotation

    # in annotations
    def __or__(self, other):
        return self

    __ror__ = __or__

    def __getitem__(self, key):
        return self


class _MissingModule(ModuleType):
    """A package that is not installed, or a module of it."""

    __path__: list = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("Error"):  # in except clauses
            return type(name, (Exception,), {})
        return _Missing(self.__name__.partition(".")[0])


def _importer() -> Optional[str]:
    """Return the name of the module that imports; None: nothing is imported."""
    frame, importing = sys._getframe(1), False
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name == "importlib._bootstrap":
            importing = importing or frame.f_code.co_name == "_find_and_load"
        elif not name.startswith("importlib") and name != __name__:
            if name == "__main__":
                spec = frame.f_globals.get("__spec__")
                name = spec.name if spec is not None else name
            return name if importing else None
        frame = frame.f_back
    return None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The last finder: a package that no other finder finds is not installed."""

    def find_spec(self, name, path=None, target=None):
        """Return the spec of a stand-in for a missing package that we import."""
        package = name.partition(".")[0]
        if package not in EXTRAS:
            return None
        if not (_importer() or "").startswith("espnet_adastride"):
            return None
        if package in sys.modules and not isinstance(
            sys.modules[package], _MissingModule
        ):
            return None  # the package is there, and this module of it is not
        if package in NEEDED_AT_ONCE:
            fail(describe_missing(package))
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        """Make the stand-in."""
        return _MissingModule(spec.name)

    def exec_module(self, module):
        """Do nothing: there is nothing to run."""


_FINDER = _Finder()


def name_missing_packages() -> None:
    """Let commands name the extra of a missing package; repeated calls do nothing."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)
