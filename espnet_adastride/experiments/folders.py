"""An experiment's folder: a run each in a folder of its own, with its record.

    EXP/NAME/result.json     a line of JSON, written when the run is finished

The record is that of ``records.py`` (configuration, commit, versions, machine), not
packed: people read it. Records of earlier versions lack that part, and are read too.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from espnet_adastride.errors import RecipeError
from espnet_adastride.experiments.grid import Step, run_all
from espnet_adastride.experiments.records import provenance, write_record
from espnet_adastride.files import PathLike
from espnet_adastride.recipe.jobs import Job

RESULT = "result.json"


def run_name(*parts: str) -> str:
    """Return the name of a run's folder."""
    return re.sub(r"[^A-Za-z0-9_.+=,-]", "_", "_".join(parts))


def is_finished(folder: PathLike) -> bool:
    """Return whether a run has its record."""
    return (Path(folder) / RESULT).is_file()


def write_result(folder: PathLike, configuration: Any, content: Dict[str, Any]) -> None:
    """Write a run's record: the run is finished.

    Args:
        folder: of the run.
        configuration: that it was trained with.
        content: what it found: ``method``, ``seed``, errors of every test item ...
    """
    record = {**content, "configuration": configuration, **provenance()}
    write_record(Path(folder) / RESULT, record)


def read_result(folder: PathLike) -> Dict[str, Any]:
    """Return a run's record."""
    return json.loads((Path(folder) / RESULT).read_text(encoding="utf-8"))


def read_results(exp: PathLike) -> Dict[Path, Dict[str, Any]]:
    """Return the records of an experiment by the runs' folders, in order of names.

    Raises:
        RecipeError: there is none.
    """
    folders = sorted(path.parent for path in Path(exp).glob(f"*/{RESULT}"))
    if not folders:
        raise RecipeError(f"{exp}: no finished run (*/{RESULT}) in it")
    return {folder: read_result(folder) for folder in folders}


def run_folders(
    functions: Dict[Path, Callable[[], None]],
    limit: int,
    log: str = "train.log",
    describe: Optional[Callable[[Dict[str, Any]], str]] = None,
) -> None:
    """Do the runs that are not finished, each a function in a forked process.

    Args:
        functions: by the runs' folders; each writes its record in the end.
        limit: parallel runs.
        log: name of the file in a run's folder that takes what it says; "": it says it
            here.
        describe: takes a record, returns the run in words; default: its name.

    Raises:
        RecipeError: a run has failed (the others are ended); names its log.
    """

    def finish(folder: Path) -> Optional[str]:
        if not is_finished(folder):
            return None  # another process is training it
        return describe(read_result(folder)) if describe else folder.name

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
