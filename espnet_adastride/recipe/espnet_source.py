"""Options and constructor arguments of ESPnet, read from its source, not imported.

Importing ESPnet takes ten seconds or more, but typos should be reported at once. The
source of the installed package shows the options of a tool, the values of each, and the
arguments of the class that a value selects. What cannot be read from the source
(``**kwargs``, a class created at run time) is unknown and not checked.
"""

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Dict, FrozenSet, NamedTuple, Optional, Tuple


class Argument(NamedTuple):
    """An argument of a class's constructor.

    Attributes:
        annotation: its type as written; None: no annotation.
        default: the expression after ``=``; None: no default.
        words: all allowed values, if the class rejects others.
    """

    annotation: Optional[ast.expr]
    default: Optional[ast.expr]
    words: FrozenSet[str] = frozenset()


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        kind: ``type=`` as written, e.g. ``int_or_none``; None: no type.
        words: values in ``choices=``; None: not a list of words.
        several: it takes several values or may be repeated.
    """

    kind: Optional[str] = None
    words: Optional[Tuple[Optional[str], ...]] = None
    several: bool = False


class ClassReference(NamedTuple):
    """A class and the place of its definition."""

    module: str
    name: str


@functools.lru_cache(maxsize=None)
def find_source(module: str) -> Optional[Path]:
    """Return the file of a module; None: not installed, or no file."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)  # of a top-level package: no import
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest and spec.origin:
        return Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *rest)
        for one in (path.with_suffix(".py"), path / "__init__.py"):
            if one.is_file():
                return one
    return None


@functools.lru_cache(maxsize=None)
def parse(module: str) -> Optional[ast.Module]:
    """Return the syntax tree of a module; None if there is no source."""
    path = find_source(module)
    try:
        return None if path is None else ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


@functools.lru_cache(maxsize=None)
def _imports(module: str) -> Dict[str, str]:
    """Return the module's imported names: {name: dotted name}."""
    found = {}
    tree = parse(module)
    path = find_source(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(name, package)
            for alias in node.names:
                found[alias.asname or alias.name] = f"{base}.{alias.name}"
    return found


def _dotted(node: ast.expr) -> Optional[str]:
    """Return ``torch.optim.Adam`` of the expression; None: another expression."""
    text = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
    return text if all(map(str.isidentifier, text.split("."))) else None


def find_class(module: str, name: Optional[str]) -> Optional[ClassReference]:
    """Follow a name, as written in a module, to the definition of the class.

    Args:
        module: e.g. ``espnet2.tasks.asr``.
        name: e.g. ``ConformerEncoder`` or ``torch.optim.Adam``.
    """
    seen = set()
    while name and (module, name) not in seen:
        seen.add((module, name))
        tree = parse(module)
        if tree is None:
            return None
        first, _, rest = name.partition(".")
        if not rest and any(
            isinstance(node, ast.ClassDef) and node.name == name for node in tree.body
        ):
            return ClassReference(module, name)
        if first not in _imports(module):
            return None
        name = _imports(module)[first] + (f".{rest}" if rest else "")
        # the longest part that is a module
        parts = name.split(".")
        for size in range(len(parts) - 1, 0, -1):
            if find_source(".".join(parts[:size])) is not None:
                module, name = ".".join(parts[:size]), ".".join(parts[size:])
                break
        else:
            return None
    return None


def _definition(reference: ClassReference) -> ast.ClassDef:
    return next(
        node
        for node in parse(reference.module).body
        if isinstance(node, ast.ClassDef) and node.name == reference.name
    )


def _closed_words(function: ast.FunctionDef) -> Dict[str, FrozenSet[str]]:
    """Return arguments that are compared with words, if all others are rejected.

    That is ``if a == "x": ... elif a == "y": ... else: raise``.
    """
    found: Dict[str, FrozenSet[str]] = {}
    later = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.If) or node in later:
            continue
        words: Dict[str, set] = {}
        rest: list = [node]
        while len(rest) == 1 and isinstance(rest[0], ast.If):
            later.add(rest[0])
            for test in ast.walk(rest[0].test):
                match test:
                    case ast.Compare(
                        left=ast.Name(id=name),
                        ops=[ast.Eq()],
                        comparators=[ast.Constant(value=str(word))],
                    ):
                        words.setdefault(name, set()).add(word)
            rest = rest[0].orelse
        if rest and isinstance(rest[-1], ast.Raise) and len(words) == 1:
            ((name, all_of_them),) = words.items()
            found[name] = frozenset(all_of_them)
    return found


def initialiser(reference: ClassReference) -> Optional[ast.FunctionDef]:
    """Return the ``__init__`` that a class itself defines, or None."""
    for node in _definition(reference).body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return node
    return None


@functools.lru_cache(maxsize=None)
def constructor(reference: ClassReference) -> Optional[Dict[str, Argument]]:
    """Return a constructor's arguments by name; None: it takes any, or is unknown."""
    function = initialiser(reference)
    if function is None:
        bases = (_dotted(base) for base in _definition(reference).bases)
        parents = (find_class(reference.module, base) for base in bases)
        parent = next((p for p in parents if p is not None), None)
        return None if parent is None else constructor(parent)
    given = function.args
    if given.kwarg is not None:
        return None
    names = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(names) - len(given.defaults)) + given.defaults
    pairs = [*zip(names, defaults), *zip(given.kwonlyargs, given.kw_defaults)]
    words = _closed_words(function)
    return {
        a.arg: Argument(a.annotation, default, words.get(a.arg, frozenset()))
        for a, default in pairs
        if a.arg != "self"
    }


def _calls(tree: ast.AST, name: str):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called == name:
                yield node


def _words(module: str, node: Optional[ast.expr]) -> Optional[Tuple]:
    """Return the words of a list, or the keys of a dictionary; None: not written out.

    That is ``["a", None]``, ``list(TYPES) + [None]``, or the name of one.
    """
    match node:
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Dict(keys=parts):
            words = [e.value if isinstance(e, ast.Constant) else ... for e in parts]
            return None if ... in words else tuple(words)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            both = _words(module, left), _words(module, right)
            return None if None in both else both[0] + both[1]
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return tuple(k.arg for k in keywords)
        case ast.Call(func=ast.Name(id="list" | "tuple" | "sorted"), args=[one]):
            return _words(module, one)
        case ast.Name(id=name):
            return named_words(module, name)
    return None


def named_words(module: str, name: str) -> Optional[Tuple]:
    """Return the words that a name refers to in a module; see :func:`_words`."""
    tree = parse(module)
    if tree is None:
        return None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if name in [getattr(target, "id", None) for target in targets]:
            return _words(module, node.value)
    if name in _imports(module):
        there, _, name = _imports(module)[name].rpartition(".")
        return named_words(there, name)
    return None


@functools.lru_cache(maxsize=None)
def command_options(module: str) -> Optional[Dict[str, Option]]:
    """Return the options that a module adds to a parser, by name; None: no source."""
    tree = parse(module)
    if tree is None:
        return None
    options = {}
    for call in _calls(tree, "add_argument"):
        keywords = {k.arg: k.value for k in call.keywords}
        for name in call.args:
            # --optim{suf}, of the only optimizer
            parts = getattr(name, "values", [name])
            word = "".join(str(p.value) for p in parts if isinstance(p, ast.Constant))
            if not word.startswith("--"):
                continue
            action = getattr(keywords.get("action"), "value", None)
            kind = keywords.get("type")
            options[word[2:]] = Option(
                kind=None if kind is None else ast.unparse(kind),
                words=_words(module, keywords.get("choices")),
                several="nargs" in keywords or action == "append",
            )
    return options


class Choice(NamedTuple):
    """The values of ``--encoder`` and similar options, and their classes.

    Attributes:
        classes: (module, name as written there); see :func:`find_class`.
        default: the default value.
        optional: null is allowed.
    """

    classes: Dict[str, Tuple[str, Optional[str]]]
    default: Optional[str]
    optional: bool


def _class_names(module: str, call: ast.Call) -> Dict[str, Tuple[str, Optional[str]]]:
    """Return the classes of ``dict(word=Class, ...)`` whose package is installed."""
    found = {}
    for keyword in call.keywords:
        name = _dotted(keyword.value) or ""
        origin = _imports(module).get(name.partition(".")[0])
        if origin is None or find_source(origin.partition(".")[0]) is not None:
            found[keyword.arg.lower()] = (module, name or None)
    return found


@functools.lru_cache(maxsize=None)
def class_choices(module: str) -> Dict[str, Choice]:
    """Return the ``ClassChoices`` of a task's module, by option.

    Args:
        module: e.g. ``espnet2.tasks.asr``.
    """
    found = {}
    for call in _calls(parse(module), "ClassChoices"):
        keywords = {k.arg: k.value for k in call.keywords}
        name = keywords.get("name", call.args[0] if call.args else None)
        classes = keywords.get("classes")
        if not isinstance(name, ast.Constant) or not isinstance(classes, ast.Call):
            continue
        default = getattr(keywords.get("default"), "value", None)
        optional = getattr(keywords.get("optional"), "value", False)
        found[name.value] = Choice(
            _class_names(module, classes), default, bool(optional) or default is None
        )
    return found


@functools.lru_cache(maxsize=None)
def class_dictionary(module: str, name: str) -> Dict[str, Tuple[str, Optional[str]]]:
    """Return a dictionary of classes defined in a module (``optim_classes``)."""
    found: Dict[str, Tuple[str, Optional[str]]] = {}
    for node in ast.walk(parse(module)):
        match node:
            case ast.Assign(
                targets=[ast.Name(id=target)],
                value=ast.Call(func=ast.Name(id="dict")) as call,
            ):
                pass
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=target), attr="update")
            ) as call:
                pass
            case _:
                continue
        if target == name:
            for word, place in _class_names(module, call).items():
                found.setdefault(word, place)
    return found


@functools.lru_cache(maxsize=None)
def registered(module: str) -> Dict[str, Tuple[str, Optional[str]]]:
    """Return the downsampling methods that a module passes to ``_register``."""
    return {
        call.args[0].value: (module, _dotted(call.args[1]))
        for call in _calls(parse(module), "_register")
    }
