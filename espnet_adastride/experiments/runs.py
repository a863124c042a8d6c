"""The runs of an experiment: trained through a recipe, each leaving a record.

A run is done if it has a record with the same settings; the trained model is not
needed. A grid therefore resumes on any machine from the records in git.
"""

import json
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from espnet_adastride.config import read_yaml
from espnet_adastride.corpora.audio import audio_info
from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.corpora.kaldi import read_text
from espnet_adastride.corpora.upstream_record import RECORD_NAME
from espnet_adastride.errors import UserError, counted, located
from espnet_adastride.evaluation.scoring import percent
from espnet_adastride.experiments.definition import (
    Experiment,
    decoding_and_set,
    in_conf,
)
from espnet_adastride.experiments.grid import Run, Step, run_all
from espnet_adastride.experiments.records import (
    Record,
    SetScores,
    hash_data,
    kept_configuration,
    make_content,
    matching_records,
    record_path,
    score_set,
    training_record,
    write_record,
)
from espnet_adastride.files import PathLike, alone
from espnet_adastride.options import parse_rate
from espnet_adastride.progress import print_dated
from espnet_adastride.recipe.configurations import check_training
from espnet_adastride.recipe.jobs import Job, run_jobs


def inference_tag(decoding: str) -> str:
    """Return the folder of a decoding (``""``: the only one) in a run's folder."""
    return f"decode_{decoding}" if decoding else "decode"


def in_turn(calls: Sequence[Sequence[str]]) -> List[str]:
    """Return one call that makes others in turn, up to the first that fails."""
    # with the trap, a signal does not end the shell before a call has cleaned up
    return ["bash", "-c", "trap : INT TERM\n" + " && ".join(map(shlex.join, calls))]


class Grid:
    """The runs of an experiment on disk, and their records.

    A run is one call of the recipe's script for stages 11 to 13 with an ``--asr_tag``
    of its own, and one for stages 12 and 13 for each further decoding. An interrupted
    one resumes through the recipe's own stages, which reject a folder with a training
    of other options.

    Args:
        experiment: the definition.
        records: folder of the records.
        dumpdir, expdir: folders of the recipe; outside it if absolute.
        python: interpreter that runs the recipe.
        nj: number of parallel jobs of the preparation.
        environment: environment of the commands.
        options: options of the script; default: those of the definition.
        measure: whether to measure the model's cost, which takes a minute.
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
        options: Optional[Sequence[str]] = None,
        measure: bool = True,
    ):
        self.recipe = experiment.recipe_folder
        script = self.recipe / experiment.script
        if not script.is_file():
            raise UserError(
                f"{self.recipe}: there is no {experiment.script} in it; correct "
                "recipe or script"
            )
        if options is None:
            names = ("train_set", "valid_set", "feats_type")
            given = {name: getattr(experiment, name) for name in names}
            given.update(experiment.options)
            options = [w for k, v in given.items() for w in (f"--{k}", str(v))]
        self.what, self.records = experiment, Path(records)
        self._fingerprint = experiment.fingerprint()
        self.python, self.environment = python, environment
        self.costs = measure
        self.data = self.recipe / dumpdir / experiment.feats_type
        self.expdir = self.recipe / expdir
        self._command = [
            *("bash", str(script), "--asr_config", str(experiment.config_path)),
            *("--test_sets", " ".join(experiment.test_sets), "--ngpu", "0"),
            *("--dumpdir", str(dumpdir), "--expdir", str(expdir), *options),
            *("--python", python, "--nj", str(nj)),
        ]
        self._scores: Dict[str, Dict[str, SetScores]] = {}
        self._tested: Dict[str, str] = {}

    def check_configurations(self, runs: Sequence[Run]) -> None:
        """Check the training of each run as the script will, before hours of others.

        Raises:
            UserError: ESPnet or the plugin would reject it; names the run and the word.
        """
        for run in {(run.system, run.rate): run for run in runs}.values():
            with located(f"{run.system} {run.rate:g}x"):
                check_training([self.what.config_path], run.asr_args)

    def prepare_command(self) -> List[str]:
        """Return the call for the stages that the runs share, with a language model."""
        language = self._decoding(self.what.lm_decoding())
        return [*self._command, *language, "--stage", "1", "--stop_stage", "10"]

    def _decoding(self, name: Optional[str]) -> List[str]:
        """Return the script's options for a decoding; none if it has no name."""
        if not name:
            return []
        words = self.what.decodings[name]
        options = ["--inference_config", str(in_conf(words["inference_config"]))]
        if words.get("use_lm"):
            options += ["--use_lm", "true"]
            options += ["--lm_config", str(in_conf(self.what.lm_config))]
        return options

    def command(self, run: Run) -> List[str]:
        """Return the call for one run; calls in turn if it is decoded repeatedly."""
        calls = []
        for name in self.what.scored_sets():
            calls.append(
                [
                    *self._command,
                    *self._decoding(name),
                    *("--stage", "12" if calls else "11", "--stop_stage", "13"),
                    *("--asr_tag", run.tag, "--asr_args", run.asr_args),
                    *("--inference_tag", inference_tag(name), "--inference_nj", "1"),
                    *("--plan", "false"),  # of the same data, for every run again
                ]
            )
        return calls[0] if len(calls) == 1 else in_turn(calls)

    def experiment(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.expdir / f"asr_{run.tag}"

    def note_data(self) -> None:
        """Hash the prepared data, for records to match it."""
        tested = self.what.test_sets
        self._tested = {name: self._hash(self.folder_of(name)) for name in tested}
        trained = (self.what.train_set, self.what.valid_set)
        data = {name: self._hash(self.data / name) for name in trained}
        self.what = replace(self.what, data=data)
        self._fingerprint = self.what.fingerprint()

    def _hash(self, folder: Path) -> str:
        return hash_data(read_text(folder / "text"), self._seconds(folder))

    def folder_of(self, name: str) -> Path:
        """Return the folder of a set as it is decoded: all utterances of it."""
        whole = name in (self.what.train_set, self.what.valid_set)
        return self.data / "org" / name if whole else self.data / name

    def finished(self) -> Dict[tuple, Record]:
        """Return the matching records that have all test sets, by the runs' keys."""
        found = self._matching()
        return {key: record for key, record in found.items() if self._is_whole(record)}

    def _matching(self) -> Dict[tuple, Record]:
        """Return the matching records, with whatever sets they have."""
        return matching_records(self.what, self.records)[0]

    def _is_whole(self, record: Record) -> bool:
        """Return whether a record has all test sets, of this data."""
        for scored in self.what.all_sets:
            scores = record.sets.get(scored)
            tested = self._tested.get(decoding_and_set(scored)[1])
            if not scores or tested not in (None, scores.data_sha256):
                return False
        return True

    def scores(self, run: Run) -> Dict[str, SetScores]:
        """Return the scores of a finished run, by set."""
        if run.tag not in self._scores:
            folder = self.experiment(run)
            self._scores[run.tag] = {
                scored: self._score(folder / inference_tag(decoding) / name, name)
                for scored in self.what.all_sets
                for decoding, name in [decoding_and_set(scored)]
            }
        return self._scores[run.tag]

    def _rate(self, folder: Path) -> int:
        """Return samples per second: the script may set ``fs`` without being asked."""
        if "fs" not in self.what.options and (folder / "wav.scp").is_file():
            first = self.recipe / next(iter(read_table(folder / "wav.scp").values()))
            if first.is_file():  # not a command
                return audio_info(first).rate
        return parse_rate(str(self.what.options.get("fs", "16k")))

    def _seconds(self, folder: Path) -> Dict[str, float]:
        rate = self._rate(folder)
        samples = read_table(folder / "utt2num_samples")
        return {key: int(n) / rate for key, n in samples.items()}

    def _score(self, decoded: Path, name: str) -> SetScores:
        data = self.folder_of(name)
        frames = None
        if (decoded / "frames").is_file():
            table = read_table(decoded / "frames")
            frames = {key: value.split() for key, value in table.items()}
        return score_set(
            read_text(data / "text"),
            read_text(decoded / "text", allow_empty=True),
            read_table(data / "utt2spk"),
            self._seconds(data),
            frames,
        )

    def describe(self, run: Run) -> str:
        """Return a line about a finished run."""
        rates = []
        for name, scores in self.scores(run).items():
            wer = percent(scores.errors().sum(), scores.reference().sum())
            rates.append(f"{name} {wer:.2f}")
        return f"{run}: WER {', '.join(rates)}"

    def mark_done(self, run: Run, code: str = "") -> None:
        """Write the record of a run that has succeeded; keep its other test sets.

        Raises:
            UserError: the model cannot be measured, or a configuration was changed
                while runs were made: the record would have settings of another model.
        """
        if self.what.fingerprint() != self._fingerprint:
            raise UserError(
                "a configuration of the experiment has changed since this command "
                "started: there is no record of this run; start the command again"
            )
        folder = self.experiment(run)
        trained = training_record(folder)
        earlier, scores = self._matching().get(run.key), self.scores(run)
        if earlier and earlier.content["learning"] == trained["learning"]:
            scores = {**earlier.sets, **scores}  # of the same training
        options = read_yaml(folder / "config.yaml")
        upstream = None
        if (folder / RECORD_NAME).is_file():
            upstream = read_yaml(folder / RECORD_NAME)
        content = make_content(
            self.what,
            run,
            scores,
            configuration=kept_configuration(options),
            upstream=upstream,
            commit=code,
            measured=self._measure(run) if self.costs else {},
            **trained,
        )
        write_record(record_path(self.records, run), content)

    def check_data(self) -> None:
        """Check that the prepared sets are those of the matching records.

        Raises:
            UserError: they differ; names the set and the record.
        """
        fit, tests = self._matching(), self.what.test_sets
        hashes = {name: self._hash(self.folder_of(name)) for name in tests if fit}
        for other in fit.values():  # not all have every set
            for name, theirs in other.sets.items():
                _, name = decoding_and_set(name)
                if hashes.get(name, theirs.data_sha256) != theirs.data_sha256:
                    raise UserError(
                        f"{name} here is not what {other.path} was tested on "
                        "(utterances, texts or durations differ): the two cannot be "
                        "compared; use the same data, or another experiment"
                    )

    def _measure(self, run: Run) -> Dict[str, Any]:
        """Measure in a separate process, because ESPnet is not imported here."""
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


def missing_runs(experiment: Experiment, records: Dict[tuple, Record]) -> List[str]:
    """Return the names of the runs without a record of all test sets."""
    sets = set(experiment.all_sets)
    return [
        str(run)
        for run in experiment.runs()
        if run.key not in records or not sets <= set(records[run.key].sets)
    ]


def run_grid(
    grid: Grid,
    runs: Sequence[Run],
    limit: int,
    code: str,
    check: Callable[[], None] = lambda: None,
    option: str = "--expdir",
) -> List[str]:
    """Prepare the data and do the runs that are not done, ``limit`` at a time.

    The folder ``EXPDIR/EXPERIMENT`` is locked, and receives the logs ``prepare.log``
    and ``TAG.log``.

    Args:
        grid: the recipe.
        runs: all runs.
        limit: parallel runs.
        code: state of the code, for the records.
        check: called after the preparation of the data.
        option: of the command, by which the folder is another one.

    Returns:
        One line for each failed run; the others are done.

    Raises:
        UserError: a configuration cannot be trained, the preparation failed, or another
            process does them.
        Interrupted: a signal arrived.
    """
    grid.check_configurations(runs)
    folder = grid.expdir / grid.what.name

    def finish(run: Run) -> str:
        words = grid.describe(run)
        grid.mark_done(run, code)
        return words

    with alone(folder, option):
        log = folder / "prepare.log"
        print(f"preparing the data, log: {log}", flush=True)
        preparation = [Job(grid.prepare_command(), log)]
        run_jobs(preparation, environment=grid.environment, grace=30.0)
        check()
        print(
            f"{counted(len(runs), 'run')}, {limit} at once, logs: {folder}/*.log",
            flush=True,
        )
        done = grid.finished()
        number = sum(run.key in done for run in runs)
        if number:
            print_dated(f"{number} of {len(runs)} runs are done and unchanged")
        steps = [
            Step(
                str(run),
                Job(grid.command(run), folder / f"{run.tag}.log"),
                partial(done.__contains__, run.key),
                partial(finish, run),
            )
            for run in runs
        ]
        return run_all(steps, limit, print_dated, True, grid.environment)
