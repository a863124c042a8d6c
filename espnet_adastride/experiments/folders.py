"""An experiment's folder: a folder and a record for each run.

    EXP/NAME/                      log, checkpoint and model of a run
    EXP/records/NAME.json.gz       its record (records.py), written when it is finished

Versions up to 0.2 wrote ``EXP/NAME/result.json`` instead, which is still read.
"""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import yaml

from espnet_adastride.config import changes, read_config, refuse_changes
from espnet_adastride.corpora.clips import Clip
from espnet_adastride.errors import UserError
from espnet_adastride.experiments.grid import Step, run_all
from espnet_adastride.experiments.records import (
    FORMAT,
    Record,
    provenance,
    read_record,
    read_records,
    shared_settings,
    write_record,
)
from espnet_adastride.files import PathLike, first_changed, shown, write_text
from espnet_adastride.recipe.jobs import Job

#: one line of JSON in a run's folder, written by versions up to 0.2
OLD_RESULT = "result.json"


def run_name(*parts: str) -> str:
    """Return the name of a run's folder."""
    return re.sub(r"[^A-Za-z0-9_.+=,-]", "_", "_".join(parts))


def record_of(folder: PathLike) -> Path:
    """Return the file of the record of the run in a folder."""
    folder = Path(folder)
    return folder.parent / "records" / f"{folder.name}.json.gz"


def is_finished(folder: PathLike) -> bool:
    """Return whether a run has its record."""
    return record_of(folder).is_file() or (Path(folder) / OLD_RESULT).is_file()


def write_result(
    folder: PathLike,
    task: str,
    method: str,
    seed: int,
    configuration: Dict[str, Any],
    **parts: Any,
) -> None:
    """Write the record that marks a run as finished.

    Args:
        folder: folder of the run.
        task: ``classification`` or ``vqvae``.
        method: word of the method.
        seed: seed of the training.
        configuration: configuration of the training.
        parts: ``learning``, ``timing`` and ``measured`` (records.py), and ``test``, the
            scores of the test set.
    """
    content = {**provenance(), **_content(task, method, seed, configuration, **parts)}
    write_record(record_of(folder), content)


def _content(task, method, seed, configuration, test, measured, **parts):
    return {
        "task": task,
        "system": method,
        "rate": _asked_rate(configuration, measured),
        "seed": seed,
        "configuration": configuration,
        "measured": measured,
        "sets": {"test": test},
        **parts,
    }


def _asked_rate(configuration: Dict[str, Any], measured: Dict[str, Any]) -> float:
    """Return the configured downsampling, or the measured one if there is none."""
    for name in ("network", "network_conf", "encoder_conf"):
        network = configuration.get(name) or {}  # a section may be empty
        if network.get("strides"):
            return math.prod(network["strides"])
        stride = (network.get("input_layer_conf") or {}).get("stride")
        if stride:
            return stride
    return round(measured.get("rate", 1.0), 1)


def read_result(folder: PathLike) -> Record:
    """Return a run's record."""
    path = record_of(folder)
    return read_record(path) if path.is_file() else _read_old(Path(folder))


def _read_old(folder: Path) -> Record:
    """Return the result that a version up to 0.2 wrote, as a record."""
    path = folder / OLD_RESULT
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        old.pop("command", None)
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as a result ({error}); remove it and run again"
        ) from None
    versions = {"torch": old.pop("torch")} if "torch" in old else {}
    origin = {"format": FORMAT, "commit": "", "versions": versions, "machine": ""}
    origin = {name: old.pop(name, value) for name, value in origin.items()}
    configuration = old.pop("configuration", {})
    for file in (folder.parent / "config.yaml", folder / "training.yaml"):
        if file.is_file():
            configuration = read_config(file)
    learning: Dict[str, Dict[str, List[float]]] = {"train": {}, "valid": {}}
    history = old.pop("history", [])
    if isinstance(history, list):  # {"loss": 3.2, "valid_accuracy": 60.3} an epoch
        for name in history[0] if history else ():
            phase, _, stat = name.partition("_")
            phase, stat = (phase, stat) if phase in learning else ("train", name)
            learning[phase][stat] = [epoch[name] for epoch in history]
    else:
        for stat, phases in history.items():
            for phase, values in phases.items():
                learning[phase][stat] = values
    timing = {"training_seconds": old.pop("seconds", 60 * old.pop("minutes", 0.0))}
    timing["epochs"] = max(map(len, learning["train"].values()), default=0)
    if "cpu_seconds" in old:
        timing["cpu_seconds"] = old.pop("cpu_seconds")
    scores = ("accuracy", "round", "predictions", "groups", "utterances")
    test = {name: old.pop(name) for name in scores if name in old}
    content = _content(
        "vqvae" if "utterances" in test else "classification",
        old.pop("method"),
        old.pop("seed"),
        configuration,
        test,
        old,
        learning=learning,
        timing=timing,
    )
    return Record({**origin, **content}, path)


def read_results(
    exp: PathLike, needed: bool = True, task: Optional[str] = None
) -> List[Record]:
    """Return the records of an experiment, results of earlier versions first.

    Args:
        exp: folder of the experiment.
        needed: whether there must be one.
        task: ``classification`` or ``vqvae``, if they must be of one.

    Raises:
        UserError: one is needed, and there is none; one is of another task; or two
            have different settings.
    """
    old = [path.parent for path in sorted(Path(exp).glob(f"*/{OLD_RESULT}"))]
    found = [_read_old(folder) for folder in old if not record_of(folder).is_file()]
    found += read_records(Path(exp) / "records")
    if needed and not found:
        raise UserError(f"{exp}: no finished run (records/*.json.gz) in it")
    for one in found:
        if task and one.task != task:
            raise UserError(
                f"{one.path}: a run of the task {one.task}, but the table is of "
                f"{task}: give the folder of another experiment"
            )
    for one in found[1:]:
        for word, a, b in changes(found[0].settings[0], one.settings[0]):
            raise UserError(
                f"{found[0].path} and {one.path} have different settings ({word}: {a} "
                f"and {b}) and cannot share a table: move one to another folder"
            )
    return found


def claim_audio(exp: PathLike, clips: Sequence[Clip], begun: bool) -> None:
    """Record the audio of an experiment's runs, or check that it is unchanged.

    Args:
        exp: the experiment's folder.
        clips: all clips of the corpus.
        begun: whether the folder has runs.

    Raises:
        UserError: it has runs, and a clip was changed since.
    """
    record = Path(exp) / "audio.json"
    if not begun:
        record.unlink(missing_ok=True)
    paths = {clip.id: clip.path for clip in clips}
    changed = first_changed(paths, record)
    if changed:
        raise UserError(
            f"{shown(paths[changed])} was changed after the runs in {exp} began; give "
            f"these another --exp, or remove {exp}"
        )


def claim_run(folder: PathLike, config: Dict[str, Any]) -> None:
    """Write ``training.yaml`` of a run after checking that its options are unchanged.

    Args:
        folder: folder of the run.
        config: ESPnet's options.

    Raises:
        UserError: it, or a finished run beside it, has other options; names the
            first.
    """
    path = Path(folder) / "training.yaml"
    if is_finished(folder):
        before = read_result(folder).content["configuration"]
        kept = record_of(folder)
        what = f"{folder} and {kept}" if kept.is_file() else folder
        refuse_changes(what, before, config, "a run")
    elif path.is_file() and (Path(folder) / "checkpoint.pth").exists():
        refuse_changes(folder, read_config(path), config, "a run")
    exp, shared = Path(folder).parent, shared_settings(config)
    for record in read_results(exp, needed=False)[:1]:
        refuse_changes(exp, record.settings[0], shared, "runs")
    write_text(path, yaml.safe_dump(config, sort_keys=False))


def run_folders(
    functions: Dict[Path, Callable[[], None]],
    limit: int,
    log: str = "train.log",
    describe: Optional[Callable[[Dict[str, Any]], str]] = None,
) -> None:
    """Do the unfinished runs, each a function in a forked process.

    Args:
        functions: functions by run folder; each writes its record at the end.
        limit: number of parallel runs.
        log: file in a run's folder that receives its output; "": this process's output.
        describe: makes a line from a record's figures; default: the folder's name.

    Raises:
        UserError: a run has failed, and the others were stopped; names its log.
    """

    def finish(folder: Path) -> Optional[str]:
        if not is_finished(folder):
            return None  # another process is training it
        return describe(read_result(folder).figures) if describe else folder.name

    if log and not all(map(is_finished, functions)):
        print(f"logs: {next(iter(functions)).parent}/*/{log}", flush=True)
    run_all(
        [
            Step(
                folder.name,
                Job(function, folder / log if log else None),
                partial(is_finished, folder),
                partial(finish, folder),
            )
            for folder, function in functions.items()
        ],
        limit,
    )


def unfinished(exp: PathLike, names: Sequence[str]) -> List[str]:
    """Return which of the runs have no record yet."""
    return [name for name in names if not is_finished(Path(exp) / name)]
