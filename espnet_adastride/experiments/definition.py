"""What is compared: methods x rates x seeds through a recipe, as a YAML file.

title: Downsampling behind Whisper tiny.en
recipe: egs/librispeech_100         # below the repository's root
script: run_whisper.sh
asr_config: train_asr_whisper_small.yaml
asr_args: --max_epoch 10            # of all runs
options: {nbpe: 1000}               # of the script, on which results depend
train_set: train_clean_100
valid_set: dev_2spk
test_sets: [test_clean, dev_2spk]   # the first is the one that is reported
feats_type: extracted
feature_rate: 50                    # frames a second that strides count from
baseline: strided_conv
pairs: [[adastride, avg_pool]]      # further differences, first minus second
variants: ["bound2=adastride score_bound=2"]
lines:                              # of a second picture, which has no other lines
  AdaStride: [adastride]
  AdaStride, another bound: [bound2]
lm_config: train_lm_small.yaml      # of a language model, trained once for all runs
decodings:                          # of every model; the first is reported first
  joint: {inference_config: decode_asr_joint.yaml}
  joint_lm: {inference_config: decode_asr_joint_lm.yaml, use_lm: true}
records_of: [whisper_joint]         # experiments whose matching records count, too
grid:                               # in the order in which they run
- {methods: [strided_conv, adastride], rates: [8, 4], seeds: [0, 1, 2]}

Without ``decodings``, every model is decoded once, as the script does.
With ``task: classification`` or ``task: vqvae`` it names the records that make a page:
title, recipe, baseline and grid suffice. The recipe's own command trains.
"""

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, get_args, get_origin

from espnet_adastride.config import read_yaml
from espnet_adastride.errors import UserError, located, unknown_word
from espnet_adastride.experiments.grid import (
    Run,
    System,
    make_runs,
    method_system,
    read_variant,
)
from espnet_adastride.files import PathLike
from espnet_adastride.networks.methods import parse_method

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("asr", "classification", "vqvae")
NOT_THERE = "is not in conf/: give the name of a file there"


@dataclass(frozen=True)
class Experiment:
    """A comparison, as its YAML file says.

    Attributes: see the example above; ``name`` is the file's, ``tag`` another prefix of
        the runs' folders, ``data`` the hashes of prepared data that models are trained
        on, which the file cannot give (``Grid.note_data``).
    """

    name: str
    title: str
    recipe: str
    asr_config: str
    grid: List[Dict[str, Any]]
    test_sets: List[str]
    task: str = "asr"
    script: str = "run.sh"
    asr_args: str = ""
    options: Dict[str, Any] = field(default_factory=dict)
    feats_type: str = "raw"
    feature_rate: float = 100.0
    baseline: str = "strided_conv"
    pairs: List[List[str]] = field(default_factory=list)
    records_of: List[str] = field(default_factory=list)
    variants: List[str] = field(default_factory=list)
    lines: Dict[str, List[str]] = field(default_factory=dict)
    lm_config: str = ""
    decodings: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    train_set: str = "train"
    valid_set: str = "dev"
    tag: str = ""
    data: Dict[str, str] = field(default_factory=dict)

    @property
    def recipe_folder(self) -> Path:
        """Folder of the recipe."""
        return Path(os.path.normpath(ROOT / self.recipe))

    @property
    def config_path(self) -> Path:
        """The training's configuration."""
        return in_conf(self.asr_config)

    @property
    def prefix(self) -> str:
        """Prefix of the runs' tags: another configuration has other folders.

        Other decodings are of the same trained models.
        """
        return self.tag or f"{self.name}_{hash_settings(self._training())[:8]}"

    def set_names(self, decoding: str) -> List[str]:
        """Return the names that records give the test sets of a decoding.

        They are ``DECODING/SET``, or those of the sets if all models are decoded once.
        """
        return [f"{decoding}/{n}" if decoding else n for n in self.test_sets]

    def scored_sets(self) -> Dict[str, List[str]]:
        """Return the test sets' names in records by decoding (``""``: the only one)."""
        return {name: self.set_names(name) for name in self.decodings or [""]}

    @property
    def all_sets(self) -> List[str]:
        """Names in records of every test set of every decoding."""
        return [name for names in self.scored_sets().values() for name in names]

    @property
    def reported(self) -> str:
        """Name in records of what is reported: first decoding, first test set."""
        return next(iter(self.scored_sets().values()))[0]

    def lm_decoding(self) -> Optional[str]:
        """Return the first decoding with the language model, or None."""
        return next((n for n, d in self.decodings.items() if d.get("use_lm")), None)

    def systems(self) -> Dict[str, System]:
        """Return the variants by name."""
        systems: Dict[str, System] = {}
        for system in map(read_variant, self.variants):
            if system.name in systems:
                raise UserError(f"two variants are called {system.name}: rename one")
            systems[system.name] = system
        return systems

    def runs(self) -> List[Run]:
        """Return all runs in their order, each once."""
        variants, prefix = self.systems(), self.prefix
        runs: Dict[tuple, Run] = {}
        for part in self.grid:
            systems = [
                variants.get(name) or method_system(name) for name in part["methods"]
            ]
            for run in make_runs(
                systems, part["rates"], part["seeds"], prefix, self.asr_args
            ):
                runs.setdefault(run.key, run)
        return list(runs.values())

    def settings(self) -> Dict[str, Any]:
        """Return the settings that all runs share and that results depend on."""
        if not self.decodings:
            return self._training()
        word = "inference_config"
        decodings = {
            name: {**words, word: read_yaml(in_conf(words[word]))}
            for name, words in self.decodings.items()
        }
        language = {"lm": read_yaml(in_conf(self.lm_config))} if self.lm_config else {}
        return {**self._training(), "decodings": decodings, **language}

    def _training(self) -> Dict[str, Any]:
        """Return the settings that the trained models depend on."""
        if self.task != "asr":
            return {"task": self.task}
        return {
            "configuration": read_yaml(self.config_path),
            "asr_args": self.asr_args,
            "options": {k: str(v) for k, v in sorted(self.options.items())},
            "train_set": self.train_set,
            "valid_set": self.valid_set,
            "script": f"{self.recipe}/{self.script}",
            **({"data": self.data} if self.data else {}),
        }

    def fingerprint(self) -> str:
        """Return a hash of the settings: comments and order do not count."""
        return hash_settings(self.settings())


def hash_settings(settings: Dict[str, Any]) -> str:
    """Return the fingerprint of some settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def decoding_and_set(name: str) -> Tuple[str, str]:
    """Split a name of :meth:`Experiment.set_names` into decoding (or "") and set."""
    decoding, _, test_set = name.rpartition("/")
    return decoding, test_set


def in_conf(name: str) -> Path:
    """Return the path of a configuration in ``conf/``."""
    return ROOT / "conf" / name


def _check_kinds(path: Path, experiment: Experiment) -> None:
    """Reject values of another kind than a word has.

    Raises:
        UserError: names the word and the fix.
    """
    kinds = {str: "a text", list: "a list, such as [...]", dict: "NAME: VALUE pairs"}
    for one in fields(Experiment):
        kind, value = get_origin(one.type) or one.type, getattr(experiment, one.name)
        if kind is float:
            if not (type(value) in (int, float) and 0 < value < math.inf):
                raise UserError(f"{path}: {one.name}: give a number above 0")
        elif not isinstance(value, kind) and one.name != "decodings":
            raise UserError(f"{path}: {one.name}: give {kinds[kind]}, got {value!r}")
        elif get_args(one.type) == (str,):
            for each in value:
                if not isinstance(each, str):
                    raise UserError(f"{path}: {one.name}: {each!r} is not a text")
                if value.count(each) > 1:
                    raise UserError(f"{path}: {one.name}: {each} is given twice")


def _check_decodings(path: Path, experiment: Experiment) -> None:
    """Reject decodings that no run could do.

    Raises:
        UserError: names the decoding and the fix.
    """
    decodings, lm_config = experiment.decodings, experiment.lm_config
    if not isinstance(decodings, dict):
        raise UserError(
            f"{path}: decodings: give NAME: {{inference_config: FILE}}, got {decodings}"
        )
    for name, words in decodings.items():
        where, problem = f"{path}: decoding {name}", ""
        known = isinstance(words, dict) and {"inference_config", "use_lm"} >= set(words)
        if not known or not isinstance(words.get("inference_config"), str):
            raise UserError(
                f"{where}: give inference_config, and use_lm: true for the language "
                f"model, got {words}"
            )
        config, use_lm = in_conf(words["inference_config"]), words.get("use_lm")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
            problem = "it names a folder: use letters, digits and _"
        elif not config.is_file():
            problem = f"inference_config {config.name} {NOT_THERE}"
        elif use_lm not in (None, False, True):
            problem = f"use_lm: {use_lm!r}: give true or false"
        elif use_lm and not lm_config:
            problem = (
                "it uses a language model: name its configuration with lm_config, such "
                "as train_lm_small.yaml"
            )
        elif use_lm and config.name.startswith("decode_ctc_greedy"):
            problem = "greedy CTC cannot use a language model; remove use_lm"
        if problem:
            raise UserError(f"{where}: {problem}")
    if lm_config and experiment.lm_decoding() is None:
        raise UserError(f"{path}: lm_config: no decoding has use_lm: true; add it")
    if lm_config and not in_conf(lm_config).is_file():
        raise UserError(f"{path}: lm_config {lm_config} {NOT_THERE}")


def read_experiment(path: PathLike) -> Experiment:
    """Read a definition.

    Raises:
        UserError: an unknown or missing word, or an empty list.
    """
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: no definition of an experiment (title, grid ...)")
    known = set(Experiment.__dataclass_fields__) - {"name", "data"}
    unknown = sorted(set(content) - known)
    if unknown:
        raise UserError(
            f"{path}: unknown word {unknown[0]!r}; choose among "
            f"{', '.join(sorted(known))}"
        )
    task = content.get("task", "asr")
    if task not in TASKS:
        raise UserError(f"{path}: {unknown_word('task', task, TASKS)}")
    if task != "asr":
        content = {"asr_config": "", "test_sets": ["test"], **content}
    try:
        experiment = Experiment(name=path.stem, **content)
    except TypeError as error:
        missing = str(error).partition("argument")[2].strip("s: ")
        raise UserError(f"{path}: {missing} is missing") from None
    _check_kinds(path, experiment)
    if not experiment.test_sets:
        raise UserError(f"{path}: test_sets is empty: name at least one")
    for part in experiment.grid:
        if (
            not isinstance(part, dict)
            or set(part) != {"methods", "rates", "seeds"}
            or not all(isinstance(v, list) and v for v in part.values())
        ):
            raise UserError(
                f"{path}: a part of the grid is lists of methods, rates and seeds, "
                f"none of them empty, got {part}"
            )
        for rate in part["rates"]:
            if not (type(rate) in (int, float) and 1 <= rate < math.inf):
                raise UserError(f"{path}: rates: {rate!r}: give numbers of at least 1")
        for seed in part["seeds"]:
            if type(seed) is not int or seed < 0:
                raise UserError(f"{path}: seeds: {seed!r}: give whole numbers, e.g. 0")
        for name in part["methods"]:
            if not isinstance(name, str):
                raise UserError(f"{path}: methods: {name!r} is not the name of one")
    names = {name for part in experiment.grid for name in part["methods"]}
    if experiment.baseline not in names:
        raise UserError(
            f"{path}: baseline {experiment.baseline} is in no part of the grid"
        )
    for pair in experiment.pairs:
        known = isinstance(pair, list) and all(name in list(names) for name in pair)
        if not known or len(pair) != 2:
            raise UserError(
                f"{path}: pairs: give two methods of the grid each, such as "
                f"[adastride, {experiment.baseline}], got {pair}"
            )
    for label, line in experiment.lines.items():
        known = isinstance(line, list) and all(name in list(names) for name in line)
        if not known or not line or not isinstance(label, str):
            raise UserError(
                f"{path}: lines: give LABEL: [METHODS], methods of the grid, got "
                f"{label}: {line}"
            )
        if task != "asr":
            raise UserError(f"{path}: lines: {task} has one picture; remove them")
    for name in experiment.records_of:
        if not path.with_name(f"{name}.yaml").is_file():
            raise UserError(
                f"{path}: records_of: no experiment {name} next to this definition"
            )
    from espnet_adastride.downsampling import available_downsamplers

    with located(f"{path}: variants"):
        variants = experiment.systems()
    for name in sorted(names - set(variants)):
        methods = parse_method(name).names if task != "asr" else [name]
        if not set(methods) <= set(available_downsamplers()):
            raise UserError(
                f"{path}: {name} is neither a method nor one of the variants; methods: "
                f"{', '.join(available_downsamplers())}"
            )
    if task == "asr" and not experiment.config_path.is_file():
        raise UserError(f"{path}: asr_config {experiment.asr_config} {NOT_THERE}")
    _check_decodings(path, experiment)
    with located(path):
        _check_runs(experiment)
    return experiment


def _check_runs(experiment: Experiment) -> None:
    """Reject a grid that is no comparison.

    Raises:
        UserError: something is given twice, a pair has no run in common, or a
            classification has several rates, whose records would have one name.
    """
    runs: Dict[str, set] = {}
    for run in experiment.runs():
        runs.setdefault(run.system, set()).add((run.rate, run.seed))
    for one, other in experiment.pairs:
        if one == other or not runs[one] & runs[other]:
            raise UserError(
                f"pairs: [{one}, {other}] cannot be compared: give two methods with a "
                "rate and a seed that the grid has of both"
            )
    rates = {rate for own in runs.values() for rate, _ in own}
    if experiment.task == "classification" and len(rates) > 1:
        raise UserError(
            "rates: a classification has one: give each rate a definition of its own"
        )
