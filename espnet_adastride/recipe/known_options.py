"""Reject typos in a training or decoding configuration before anything is done.

Unknown options, unknown words (``encoder: confomer``), unknown keys at every level that
a class reads (``encoder_conf``, ``optim_conf``, ``input_layer_conf`` ...) and values of
the wrong type are reported in one line, in a fraction of a second, because ESPnet's
source is read (``espnet_source.py``), not imported. Values that only running code can
check are left to the plan and to ESPnet.
"""

import argparse
import ast
import math
import re
from typing import Any, Dict, List, Optional, Sequence

from espnet_adastride.errors import UserError, did_you_mean, unknown_word
from espnet_adastride.networks.methods import split_stride
from espnet_adastride.options import MAX_STRIDE, real, stride_number
from espnet_adastride.options import whole as whole_number
from espnet_adastride.recipe import espnet_source as source

ENCODERS = "espnet_adastride.plugin.encoders"
LAYER = source.ClassReference(
    "espnet_adastride.plugin.subsampling", "AdaptiveSubsampling"
)
LAYER_CONF = "espnet_adastride.plugin.layer_conf"
METHODS = "espnet_adastride.downsampling.registry"

#: options that ESPnet uses as divisors or counts
AT_LEAST_ONE = ("accum_grad", "max_epoch", "batch_size", "batch_bins")

#: options that name a file or are a list of what is in it, as in a config.yaml
LISTS = ("token_list",)

#: class of an option that does not name one
SINGLE_CLASSES = {"ctc_conf": "CTC", "joint_net_conf": "JointNetwork"}

WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a word",
}
NOTHING = ("none", "null", "nil")


# ---------------------------------------------------------------- a value's type
_TYPES = {
    "int": int,
    "float": (int, float),
    "bool": (bool, int),
    "str": str,
    "None": type(None),
    "list": list,
    "dict": dict,
}
#: the plain type of a name in an annotation
_PLAIN = {
    **{name: name for name in WANTED},
    **dict.fromkeys(("List", "Sequence", "Tuple", "Iterable", "Collection"), "list"),
    **dict.fromkeys(("list", "tuple", "set"), "list"),
    **dict.fromkeys(("Dict", "Mapping", "dict"), "dict"),
}


def _is_kind(kind: str, value: Any) -> bool:
    """Return whether a value is of a plain type."""
    return isinstance(value, _TYPES[kind]) and (kind, type(value)) != ("float", bool)


def _kinds(annotation: ast.expr) -> List[str]:
    """Return the plain types of an annotation; '' is an unknown type."""
    match annotation:
        case ast.Constant(value=None):
            return ["None"]
        case ast.BinOp(left=left, right=right):  # int | None
            return _kinds(left) + _kinds(right)
        case ast.Name(id="Tensor"):  # which YAML cannot express
            return []
        case ast.Name(id=name):
            return [_PLAIN.get(name, "")]
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name)):
            inner = annotation.slice
            if name == "Optional":
                return [*_kinds(inner), "None"]
            if name == "Union":
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                return [kind for part in parts for kind in _kinds(part)]
            if name == "Literal":  # _literals
                return []
            return [_PLAIN.get(name, "")]
    return [""]


def _literals(annotation: ast.expr) -> List[Any]:
    """Return the values of all ``Literal[...]`` of an annotation."""
    match annotation:
        case ast.Subscript(
            value=ast.Name(id="Literal") | ast.Attribute(attr="Literal")
        ):
            nodes = ast.walk(annotation.slice)
            return [node.value for node in nodes if isinstance(node, ast.Constant)]
    parts = ast.iter_child_nodes(annotation)
    return [value for part in parts for value in _literals(part)]


def wrong_value(argument: source.Argument, value: Any) -> str:
    """Return the expected type of an argument if a value does not have it; else ''."""
    if value is None:  # ESPnet's own defaults are None even if the type differs
        return ""
    literals: List[Any] = []
    if argument.annotation is not None:
        kinds, literals = _kinds(argument.annotation), _literals(argument.annotation)
        if value in literals:
            return ""
    else:  # only the type of the default is known: words are not numbers
        default = getattr(argument.default, "value", None)
        number = isinstance(default, (int, float)) and not isinstance(default, bool)
        if not (number and isinstance(value, str)):
            return ""
        kinds = ["float"]
    if "" in kinds or any(_is_kind(kind, value) for kind in kinds):
        if isinstance(value, str) and argument.words and value not in argument.words:
            return "one of " + ", ".join(sorted(argument.words))
        return ""
    names = {"list": "a list", "dict": "options such as {key: value}", **WANTED}
    wanted = [names[kind] for kind in dict.fromkeys(kinds) if kind in names]
    wanted += map(str, literals)
    hint = ""
    if isinstance(value, str) and "float" in kinds and _a_number(value):
        hint = f" (YAML reads {value} as a string: write {float(value)!r})"
    return " or ".join(wanted) + hint


def _a_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------- an option's value
def wrong_option_value(option: source.Option, value: Any) -> str:
    """Return the expected type of an option if a value does not have it; else ''."""
    if option.several:
        return ""
    if isinstance(value, (list, dict)):
        nested = option.kind in (None, "NestedDictAction") and option.words is None
        return "" if nested else "one value"
    kind = option.kind or "str"
    word = str(value)
    ours = re.fullmatch(r"(real|whole)\(.*\)|stride_number", kind)
    typed = ours or kind in ("int", "float", "str2bool")
    if value is None or (word.lower() in NOTHING and not typed):
        may = option.words is None or None in option.words or word in option.words
        return "" if may else "one of " + _listed(option.words)
    if ours:  # a type of options.py, as written in a command of ours
        if isinstance(value, bool):
            return WANTED["int" if ours[1] == "whole" else "float"]
        read = stride_number
        if ours[1]:
            call = ast.parse(kind, mode="eval").body
            read = {"real": real, "whole": whole_number}[ours[1]](
                *map(ast.literal_eval, call.args),
                **{k.arg: ast.literal_eval(k.value) for k in call.keywords},
            )
        try:
            read(word)
        except argparse.ArgumentTypeError as error:
            return str(error).partition(": give ")[2]
    if kind in ("int", "int_or_none"):
        if isinstance(value, bool) or isinstance(value, float):
            return WANTED["int"]
        try:
            int(word)
        except ValueError:
            return WANTED["int"]
    elif kind in ("float", "float_or_none"):
        if isinstance(value, bool) or not _a_number(word):
            return WANTED["float"]
    elif kind == "str2bool":
        truths = "y yes t true on 1 n no f false off 0".split()
        if not isinstance(value, bool) and word.lower() not in truths:
            return WANTED["bool"]
    if option.words is not None:
        given = word.lower() if "lower" in kind else value
        given = word.upper() if "upper" in kind else given
        if kind.startswith(("int", "float")):
            given = float(word)
        if given not in option.words and str(given) not in option.words:
            return "one of " + _listed(option.words)
    return ""


def _listed(words: Sequence[Any]) -> str:
    return ", ".join("null" if word is None else str(word) for word in words)


# ---------------------------------------------------------------- a training
class _Checker:
    """Checks one configuration; ``where`` returns the file of a word."""

    def __init__(self, config: Dict[str, Any], task: str, where):
        self.config, self.where = config, where
        self.module = f"espnet2.tasks.{task}"
        self.options = {
            **(source.command_options("espnet2.tasks.abs_task") or {}),
            **(source.command_options(self.module) or {}),
            "config": source.Option(),
        }
        self.choices = dict(source.class_choices(self.module))
        if task == "asr":
            before, ours = self.choices["preencoder"], "espnet_adastride.plugin"
            classes = {**before.classes, "layer_sum": (f"{ours}.layer_sum", "LayerSum")}
            self.choices["preencoder"] = before._replace(classes=classes)
        for name in ("optim", "scheduler"):
            classes = source.class_dictionary(
                "espnet2.tasks.abs_task", f"{name}_classes"
            )
            default = {"optim": "adadelta"}.get(name)
            self.choices[name] = source.Choice(classes, default, default is None)
        for name, choice in self.choices.items():
            words = [*choice.classes, *([None] if choice.optional else [])]
            self.options[name] = source.Option("lower", tuple(words))
            self.options[f"{name}_conf"] = source.Option()

    def refuse(self, path: Sequence[str], problem: str):
        raise UserError(f"{self.where(path)}: {problem}")

    def run(self) -> None:
        for name, value in self.config.items():
            name = str(name)
            if name not in self.options:
                hint = did_you_mean(name, self.options)
                self.refuse([name], f"ESPnet's training has no option {name!r}{hint}")
            if name.endswith("_conf"):
                if value is not None and not isinstance(value, dict):
                    self.refuse([name], f"{name}: give options such as {{key: value}}")
                continue
            if name in LISTS and isinstance(value, list):
                continue
            option = self.options[name]
            wrong = wrong_option_value(option, value)
            if wrong:
                wrong += did_you_mean(value, option.words or ())
                self.refuse([name], f"{name}: {value!r} must be {wrong}")
            if name in AT_LEAST_ONE and value is not None and float(value) < 1:
                self.refuse([name], f"{name}: {value} must be 1 or more")
        for name, value in self.config.items():
            if str(name).endswith("_conf") and isinstance(value, dict):
                self._conf(str(name), value)

    def _conf(self, name: str, conf: Dict[str, Any]) -> None:
        chosen = name[: -len("_conf")]
        reference = None
        if name in SINGLE_CLASSES:
            reference = source.find_class(self.module, SINGLE_CLASSES[name])
        elif chosen in self.choices:
            choice = self.choices[chosen]
            word = self.config.get(chosen, choice.default)
            if word is None or str(word).lower() in NOTHING:
                return
            reference = source.find_class(*choice.classes[str(word).lower()])
        arguments = None if reference is None else source.constructor(reference)
        if arguments is None:
            return
        arguments = dict(arguments)
        layer = None
        if chosen == "encoder" and self._takes_our_words(arguments):
            methods = source.registered(METHODS)
            given = conf.get("input_layer")
            # compared with a tuple, not hashed: what is given may be a list
            layer = given if given in tuple(methods) else None
            words = arguments["input_layer"].words
            words = frozenset([*words, *methods]) if words else words
            arguments["input_layer"] = arguments["input_layer"]._replace(words=words)
            kinds = {"input_layer_conf": ast.Name("dict"), "use_sdpa": None}
            for own, kind in kinds.items():
                arguments.setdefault(own, source.Argument(kind, ast.Constant(None)))
        self._arguments([name], conf, arguments)
        if chosen == "encoder" and isinstance(conf.get("input_layer_conf"), dict):
            self._input_layer(layer, conf["input_layer_conf"])

    def _takes_our_words(self, arguments) -> bool:
        words = source.named_words(ENCODERS, "ENCODERS")
        encoder = str(self.config.get("encoder", self.choices["encoder"].default))
        return encoder.lower() in words and "input_layer" in arguments

    def _arguments(self, path, conf, arguments) -> None:
        for key, value in conf.items():
            if key not in arguments:
                # arguments without a default are set by ESPnet itself
                words = [a for a, b in arguments.items() if b.default is not None]
                words = words or list(arguments)
                self.refuse(
                    [*path, key], f"{'.'.join(path)}: {unknown_word('key', key, words)}"
                )
            wrong = wrong_value(arguments[key], value)
            if wrong:
                wrong += did_you_mean(value, arguments[key].words)
                self.refuse(
                    [*path, key], f"{'.'.join(path)}: {key}: {value!r} must be {wrong}"
                )

    def _input_layer(self, word: Optional[str], conf: Dict[str, Any]) -> None:
        path = ["encoder_conf", "input_layer_conf"]
        methods = source.registered(METHODS)
        if word is None:
            given = self.config["encoder_conf"].get("input_layer", "conv2d")
            if conf:
                self.refuse(
                    path,
                    f"encoder_conf: input_layer_conf is for input_layer "
                    f"{', '.join(methods)}; input_layer is {given!r}, which has no "
                    "options",
                )
            return
        named = conf.get("method", word)
        named = named if isinstance(named, list) else [named]
        for one in named:
            if one not in tuple(methods):
                self.refuse(
                    [*path, "method"],
                    f"{'.'.join(path)}: {unknown_word('method', one, methods)}",
                )
        own = source.named_words(LAYER_CONF, "OWN_WORDS")
        arguments = {  # of the layer; its **options belong to the methods
            a.arg: source.Argument(a.annotation, ast.Constant(None))
            for a in source.initialiser(LAYER).args.args
            if a.arg in own
        }
        for one in dict.fromkeys(named):
            reference = source.find_class(*methods[one])
            for key, argument in source.constructor(reference).items():
                if key not in ("size", "stride"):
                    arguments.setdefault(key, argument)
        trunks = frozenset(source.named_words(LAYER_CONF, "TRUNKS"))
        arguments["trunk"] = arguments["trunk"]._replace(words=trunks)
        self._arguments(path, conf, arguments)
        for key in ("stride", "train_strides"):
            self._strides(path, key, conf.get(key))
        for key in ("method", "after_blocks"):
            self._stages(path, key, conf)

    def _strides(self, path, key, given) -> None:
        """Reject a stride as ``downsampling.output.check_stride`` does."""
        if given == []:
            self.refuse([*path, key], f"{'.'.join(path)}: {key}: the list is empty")
        for one in given if isinstance(given, list) else [given]:
            number = isinstance(one, (int, float)) and not isinstance(one, bool)
            if given is not None and not (number and 1 <= one < math.inf):
                self.refuse(
                    [*path, key],
                    f"{'.'.join(path)}: {key}: {one!r} must be a number of at least 1",
                )
            if given is not None and one > MAX_STRIDE:
                self.refuse(
                    [*path, key],
                    f"{'.'.join(path)}: {key}: {one!r} must be at most {MAX_STRIDE}: "
                    "so many frames are hours of speech, longer than any utterance",
                )

    def _stages(self, path, key, conf) -> None:
        """Reject a list that is not one value for each stage, as the layer does."""
        given, stride = conf.get(key), conf.get("stride")
        if not isinstance(given, list) or stride is None:
            return
        blocks = conf.get("after_blocks")
        most = len(blocks) if isinstance(blocks, list) else None
        stages = len(split_stride(stride, most))
        if len(given) != stages:
            self.refuse(
                [*path, key],
                f"{'.'.join(path)}: {key}: {len(given)} values "
                f"({', '.join(map(str, given))}), but stride {stride} has {stages} "
                f"stage{'s' * (stages != 1)}: give one for each",
            )


def refuse_unknown_options(config: Dict[str, Any], task: str, where) -> None:
    """Reject a training configuration that ESPnet or the plugin would reject.

    Args:
        config: as ESPnet reads it, command-line options included.
        task: ``asr`` or ``lm``; ``abs_task``: options that every task has.
        where: called with the path of a word, e.g. ``["encoder_conf", "num_blocks"]``;
            returns its origin, for the message.

    Raises:
        UserError: one line that names the place, the word and the nearest known one.
    """
    if source.parse(f"espnet2.tasks.{task}") is None:
        return  # ESPnet is missing: the commands that need it report that
    _Checker(config, task, where).run()


def refuse_unknown_decoding(config: Dict[str, Any], module: str, where) -> None:
    """Reject a decoding configuration with unknown options.

    Args:
        config: from ``--inference_config``, command-line options included.
        module: module of the command: ``espnet2.bin.asr_inference`` or the plugin's.
        where: as for :func:`refuse_unknown_options`.

    Raises:
        UserError: one line that names the place, the word and the nearest known one.
    """
    options = source.command_options(module)
    if not options:
        return
    options = {**options, "config": source.Option()}
    for name, value in config.items():
        if name not in options:
            hint = did_you_mean(name, options)
            raise UserError(f"{where([name])}: {module} has no option {name!r}{hint}")
        wrong = wrong_option_value(options[name], value)
        if wrong:
            raise UserError(f"{where([name])}: {name}: {value!r} must be {wrong}")
