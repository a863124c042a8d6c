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
grid:                               # in the order in which they run
- {methods: [strided_conv, adastride], rates: [8, 4], seeds: [0, 1, 2]}

With ``task: classification`` or ``task: vqvae`` it names the records that make a page:
title, recipe, baseline and grid suffice. The recipe's own command trains.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List

from espnet_adastride.config import read_yaml
from espnet_adastride.errors import RecipeError, unknown_word
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


@dataclass(frozen=True)
class Experiment:
    """A comparison, as its YAML file says.

    Attributes: see the example above; ``name`` is the file's, ``tag`` another prefix of
        the runs' folders, ``data`` the hashes of prepared sets (``Grid.note_data``).
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
    variants: List[str] = field(default_factory=list)
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
        return ROOT / "conf" / self.asr_config

    @property
    def prefix(self) -> str:
        """Prefix of the runs' tags: another configuration has other folders."""
        return self.tag or f"{self.name}_{self.fingerprint()[:8]}"

    def systems(self) -> Dict[str, System]:
        """Return the variants by name."""
        systems = [read_variant(text) for text in self.variants]
        return {system.name: system for system in systems}

    def runs(self) -> List[Run]:
        """Return all runs in their order, each once."""
        variants = self.systems()
        runs: Dict[tuple, Run] = {}
        for part in self.grid:
            systems = [
                variants.get(name) or method_system(name) for name in part["methods"]
            ]
            for run in make_runs(
                systems, part["rates"], part["seeds"], self.prefix, self.asr_args
            ):
                runs.setdefault(run.key, run)
        return list(runs.values())

    def settings(self) -> Dict[str, Any]:
        """Return the settings that all runs share and that results depend on."""
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
        text = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_experiment(path: PathLike) -> Experiment:
    """Read a definition.

    Raises:
        RecipeError: an unknown or missing word, or an empty list.
    """
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: no definition of an experiment (title, grid ...)")
    known = set(Experiment.__dataclass_fields__) - {"name"}
    unknown = sorted(set(content) - known)
    if unknown:
        raise RecipeError(
            f"{path}: unknown word {unknown[0]!r}; choose among "
            f"{', '.join(sorted(known))}"
        )
    task = content.get("task", "asr")
    if task not in TASKS:
        raise RecipeError(f"{path}: {unknown_word('task', task, TASKS)}")
    if task != "asr":
        content = {"asr_config": "", "test_sets": ["test"], **content}
    try:
        experiment = Experiment(name=path.stem, **content)
    except TypeError as error:
        missing = str(error).partition("argument")[2].strip("s: ")
        raise RecipeError(f"{path}: {missing} is missing") from None
    if not experiment.test_sets:
        raise RecipeError(f"{path}: test_sets is empty: name at least one")
    for part in experiment.grid:
        if set(part) != {"methods", "rates", "seeds"} or not all(part.values()):
            raise RecipeError(
                f"{path}: a part of the grid is methods, rates and seeds, none of them "
                f"empty, got {part}"
            )
    names = {name for part in experiment.grid for name in part["methods"]}
    if experiment.baseline not in names:
        raise RecipeError(
            f"{path}: baseline {experiment.baseline} is in no part of the grid"
        )
    for pair in experiment.pairs:
        known = isinstance(pair, list) and all(name in list(names) for name in pair)
        if not known or len(pair) != 2:
            raise RecipeError(
                f"{path}: pairs: give two methods of the grid each, such as "
                f"[adastride, {experiment.baseline}], got {pair}"
            )
    from espnet_adastride.downsampling import available_downsamplers

    for name in sorted(names - set(experiment.systems())):
        methods = parse_method(name).names if task != "asr" else [name]
        if not set(methods) <= set(available_downsamplers()):
            raise RecipeError(
                f"{path}: {name} is neither a method nor one of the variants; methods: "
                f"{', '.join(available_downsamplers())}"
            )
    if task == "asr" and not experiment.config_path.is_file():
        raise RecipeError(f"{path}: asr_config {experiment.asr_config} is not in conf/")
    return experiment
