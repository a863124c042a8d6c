"""The runs of an experiment: trained through a recipe, each left as a record.

A run is done if its record is there and was made with the same settings; the trained
model need not be. So a grid resumes on any machine from the records in git.
"""

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import yaml

from espnet_adastride.corpora.datadir import parse_rate, read_table
from espnet_adastride.corpora.features import RECORD_NAME
from espnet_adastride.corpora.kaldi import read_text
from espnet_adastride.errors import RecipeError
from espnet_adastride.evaluation.scoring import percent
from espnet_adastride.experiments.definition import Experiment
from espnet_adastride.experiments.grid import Grid, Run
from espnet_adastride.experiments.records import (
    Record,
    SetScores,
    hash_data,
    kept_configuration,
    make_content,
    read_record,
    record_path,
    score_set,
    split_records,
    training_record,
    write_record,
)
from espnet_adastride.files import PathLike
from espnet_adastride.recipe.jobs import Job, run_jobs


class RecordedGrid(Grid):
    """The runs of an experiment on disk, and their records.

    Args:
        experiment: what is compared.
        records: folder of the records.
        dumpdir, expdir: of the recipe; outside it if absolute.
        python: that runs the recipe.
        nj: jobs of the preparation.
        environment: of the commands.
    """

    def __init__(
        self,
        experiment: Experiment,
        records: PathLike,
        dumpdir: PathLike = "dump",
        expdir: PathLike = "exp",
        python: str = sys.executable,
        nj: int = 1,
        environment: Optional[Dict[str, str]] = None,
    ):
        options: List[str] = []
        for name in ("train_set", "valid_set", "feats_type"):
            options += [f"--{name}", getattr(experiment, name)]
        for name, value in experiment.options.items():
            options += [f"--{name}", str(value)]
        super().__init__(
            experiment.recipe_folder,
            " ".join(experiment.test_sets),
            experiment.config_path,
            options=[*options, "--ngpu", "0"],
            settings=["--python", python, "--nj", str(nj)],
            script=experiment.script,
            feats_type=experiment.feats_type,
            dumpdir=dumpdir,
            expdir=expdir,
        )
        self.what, self.records = experiment, Path(records)
        self.python, self.environment = python, environment
        self._fingerprint = experiment.fingerprint()
        self._scores: Dict[str, Dict[str, SetScores]] = {}

    def folder_of(self, name: str) -> Path:
        """Return the folder of a set as it is decoded: all utterances of it."""
        whole = name in (self.what.train_set, self.what.valid_set)
        return self.data / "org" / name if whole else self.data / name

    def is_done(self, run: Run) -> bool:
        """Return whether a run has a record that fits."""
        path = record_path(self.records, run)
        return path.is_file() and bool(split_records(self.what, [read_record(path)])[0])

    def scores(self, run: Run) -> Dict[str, SetScores]:
        """Return the scores of a finished run, by set."""
        if run.tag not in self._scores:
            self._scores[run.tag] = {
                name: self._score(run, name) for name in self.what.test_sets
            }
        return self._scores[run.tag]

    def _seconds(self, name: str) -> Dict[str, float]:
        rate = parse_rate(str(self.what.options.get("fs", "16k")))
        samples = read_table(self.folder_of(name) / "utt2num_samples")
        return {key: int(n) / rate for key, n in samples.items()}

    def _score(self, run: Run, name: str) -> SetScores:
        data = self.folder_of(name)
        decoded = self.experiment(run) / self.inference_tag / name
        frames = None
        if (decoded / "frames").is_file():
            table = read_table(decoded / "frames")
            frames = {key: value.split() for key, value in table.items()}
        return score_set(
            read_text(data / "text"),
            read_text(decoded / "text", allow_empty=True),
            read_table(data / "utt2spk"),
            self._seconds(name),
            frames,
        )

    def describe(self, run: Run) -> str:
        """Return a finished run in words."""
        rates = []
        for name, scores in self.scores(run).items():
            wer = percent(scores.errors().sum(), scores.reference().sum())
            rates.append(f"{name} {wer:.2f}")
        return f"{run}: WER {', '.join(rates)}"

    def mark_done(self, run: Run, code: str = "") -> None:
        """Write the record of a run that has succeeded.

        Raises:
            RecipeError: it cannot be measured.
        """
        scores = self.scores(run)
        folder = self.experiment(run)
        options = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        upstream = None
        if (folder / RECORD_NAME).is_file():
            upstream = yaml.safe_load((folder / RECORD_NAME).read_text("utf-8"))
        content = make_content(
            self.what,
            run,
            scores,
            configuration=kept_configuration(options),
            upstream=upstream,
            commit=code,
            measured=self._measure(run),
            **training_record(folder),
        )
        write_record(record_path(self.records, run), content)

    def check_data(self) -> None:
        """See that the prepared sets are those of the records that fit.

        Raises:
            RecipeError: naming the set and the record.
        """
        for path in sorted(self.records.glob("*.json.gz")):
            other = read_record(path)
            if other.fingerprint != self._fingerprint:
                continue
            for name, theirs in other.sets.items():
                texts = read_text(self.folder_of(name) / "text")
                if hash_data(texts, self._seconds(name)) != theirs.data_sha256:
                    raise RecipeError(
                        f"{name} here is not what {path} was tested on (utterances, "
                        "texts or durations differ): the two cannot be compared; use "
                        "the same data, or another experiment"
                    )
            return  # those there agree with each other

    def _measure(self, run: Run) -> Dict[str, Any]:
        """Measure in a process of its own: ESPnet is not imported here."""
        folder = self.experiment(run)
        output = folder / "measured.json"
        names = [self.what.train_set, *self.what.test_sets]
        command = [
            *(self.python, "-m", "espnet_adastride.bin.run"),
            *("-m", "espnet_adastride.bin.measure_run"),
            *("--exp", str(folder), "--output", str(output)),
            *("--work_dir", str(self.recipe)),
        ]
        for name in dict.fromkeys(names):
            source = self.data if name == self.what.train_set else None
            place = source / name if source else self.folder_of(name)
            command += ["--set", name, str(place)]
        job = Job(command, folder / "measure.log")
        run_jobs([job], environment=self.environment)
        return json.loads(output.read_text(encoding="utf-8"))


def missing_runs(
    runs: Sequence[Run], records: Dict[tuple, Record], test_set: str
) -> List[str]:
    """Return the runs without a record that holds the test set, in words."""
    return [
        str(run)
        for run in runs
        if (run.system, run.rate, run.seed) not in records
        or test_set not in records[run.system, run.rate, run.seed].sets
    ]
