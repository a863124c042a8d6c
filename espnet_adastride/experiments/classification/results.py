"""The statistics of classification: runs read from their records, methods compared.

* **accuracy**: mean over the rounds of a method, and their standard deviation. A round
  is a seed, or in a cross-validation (``split: folds``, ``leave_one_out``) the seeds
  that test every clip once; a round that a method has not finished does not count
  (:func:`whole_rounds`). The deviation holds the chance of the training and, where
  rounds are tested on different groups (``split: rotating``), that of the groups;
* **95 % interval**: bootstrap over the test *groups* (speakers; source recordings), a
  clip that several seeds were tested on counting once, with their mean;
* **paired test** against a reference method: for every test *group*, the number of
  right answers of the method minus that of the reference, over clips and seeds. If the
  methods did not differ, either sign would be equally likely. Exact and two-sided
  (:func:`sign_flip_test`). If every group is one clip, and every clip belongs to one
  seed, this is McNemar's exact test;
* **Holm's correction** of p for the number of methods compared.

Intervals and test describe these trained networks on further groups: the clips of a
group resemble each other, and so do the answers of several seeds to one clip. Few
groups cannot show a difference (six speakers cannot have p below 1/32), and their
intervals are unreliable; the notes below the table give the number.
"""

import inspect
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.downsampling.registry import (
    available_downsamplers,
    downsampler_class,
)
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.statistics import (
    Bootstrap,
    holm,
    sign_flip_test,
    sum_by,
)
from espnet_adastride.experiments.folders import read_results
from espnet_adastride.experiments.records import Record, checking, is_number


class Row(NamedTuple):
    """One method of the table; see the file's top.

    Attributes:
        method: its word.
        seeds: of its runs.
        accuracies: percent, one a round.
        valid_accuracy: percent, mean over the runs: what options are chosen by.
        interval: (low, high) percent.
        parameters: trained numbers of the network.
        rate: input frames per output frame, mean over the seeds.
        seconds: of a training, mean over the seeds: of the CPU, where a run has
            measured them, else of the clock.
        comparison: None for the reference, or without one.
    """

    method: str
    seeds: Tuple[int, ...]
    accuracies: Tuple[float, ...]
    valid_accuracy: float
    interval: Tuple[float, float]
    parameters: int
    rate: float
    seconds: float
    comparison: Optional["Comparison"]


class Comparison(NamedTuple):
    """A method against the reference, over the seeds that both have.

    Attributes:
        difference: of the accuracies, in percentage points.
        interval: (low, high) of it.
        better: clips that the method got right in more seeds than the reference.
        worse: in fewer.
        p: of the test over the groups.
        p_holm: the same, corrected for all methods of the table.
    """

    difference: float
    interval: Tuple[float, float]
    better: int
    worse: int
    p: float
    p_holm: float = float("nan")


#: the finished runs of a method, {seed: figures of its record}
Runs = Dict[int, Dict[str, Any]]


def read_runs(folder) -> Dict[str, Runs]:
    """Read the finished runs of an experiment; see :func:`sort_runs`.

    Raises:
        UserError: also where there is none.
    """
    return sort_runs(read_results(folder, task="classification"))


def sort_runs(records: Iterable[Record]) -> Dict[str, Runs]:
    """Return the runs of some records: {method: {seed: figures}}.

    Raises:
        UserError: runs of one seed were tested on different clips, or one was written
            by an earlier version, or has a wrong value.
    """
    runs: Dict[str, Runs] = {}
    clips: Dict[int, set] = {}
    for record in records:
        run, path = record.figures, record.path
        if "groups" not in run:
            raise UserError(
                f"{path}: written by an earlier version; train again in another --exp"
            )
        with checking(path):
            _check_predictions(run)
        seed = run["seed"]
        if clips.setdefault(seed, set(run["predictions"])) != set(run["predictions"]):
            raise UserError(
                f"{path}: tested on other clips than the runs beside it: move it to "
                "another folder, or train it again with their corpus and split"
            )
        runs.setdefault(run["method"], {})[seed] = run
    return runs


def _check_predictions(run: Dict[str, Any]) -> None:
    """Raise TypeError or KeyError unless each clip of a run has a prediction."""
    for name in ("parameters", "rate", "valid_accuracy"):
        if not is_number(run[name]):
            raise TypeError(f"{name} is not a number")
    _seconds(run)  # raises if neither time is there
    if not isinstance(run["round"], int) or run["round"] < 0:
        raise TypeError("round is not a number from 0 on")
    groups, predictions = run["groups"], run["predictions"]
    if not isinstance(groups, dict) or not isinstance(predictions, dict):
        raise TypeError("groups and predictions are not mappings")
    if groups.keys() != predictions.keys():
        raise TypeError("groups and predictions have different clips")
    if not all(isinstance(group, str) for group in groups.values()):
        raise TypeError("groups are not words")


def compare(runs: Dict[str, Runs], reference: str) -> List[Row]:
    """Return the table's rows, the reference first, then by falling accuracy.

    Args:
        runs: of :func:`read_runs`; those of unfinished rounds are left out.
        reference: the method to compare with; not among the runs: no comparison.
    """
    rows = []
    runs = whole_rounds(runs)
    for method, own in runs.items():
        right = {seed: right_answers(run) for seed, run in sorted(own.items())}
        clips, _, means = pool(list(right.values()))
        groups = groups_of(own.values())
        comparison = None
        if method != reference and set(own) & set(runs.get(reference, {})):
            comparison = _compare_two(own, runs[reference])
        rows.append(
            Row(
                method,
                tuple(right),
                round_accuracies(own),
                float(np.mean([run["valid_accuracy"] for run in own.values()])),
                group_interval(100.0 * means, [groups[clip] for clip in clips]),
                max(run["parameters"] for run in own.values()),
                float(np.mean([run["rate"] for run in own.values()])),
                float(np.mean([_seconds(run) for run in own.values()])),
                comparison,
            )
        )
    compared = [index for index, row in enumerate(rows) if row.comparison is not None]
    corrected = holm([rows[index].comparison.p for index in compared])
    for index, p in zip(compared, corrected):
        comparison = rows[index].comparison._replace(p_holm=p)
        rows[index] = rows[index]._replace(comparison=comparison)
    return sorted(rows, key=lambda r: (r.method != reference, -np.mean(r.accuracies)))


def _compare_two(ours: Runs, theirs: Runs) -> Comparison:
    """Compare over the seeds that both have."""
    differences = []
    for seed in sorted(set(ours) & set(theirs)):
        mine, other = right_answers(ours[seed]), right_answers(theirs[seed])
        differences.append({clip: mine[clip] - other[clip] for clip in mine})
    clips, sums, means = pool(differences)
    group = groups_of(ours.values())
    groups = [group[clip] for clip in clips]
    return Comparison(
        100.0 * float(means.mean()),
        group_interval(100.0 * means, groups),
        int((sums > 0).sum()),
        int((sums < 0).sum()),
        sign_flip_test(sum_by(sums, groups)),
    )


def _seconds(run: Dict[str, Any]) -> float:
    return run["cpu_seconds" if "cpu_seconds" in run else "training_seconds"]


def right_answers(run: Dict[str, Any]) -> Dict[str, int]:
    """Return {clip: 1 if the class before the slash was recognised, else 0}."""
    answers = run["predictions"].items()
    return {clip: int(clip.split("/")[0] == name) for clip, name in answers}


def pool(values: List[Dict[str, int]]) -> Tuple[List[str], np.ndarray, np.ndarray]:
    """Return the clips, sorted, and over the seeds that have each its sum and mean."""
    pooled: Dict[str, List[int]] = {}
    for one in values:
        for clip, value in one.items():
            pooled.setdefault(clip, []).append(value)
    clips = sorted(pooled)
    sums = np.array([sum(pooled[clip]) for clip in clips])
    return clips, sums, sums / [len(pooled[clip]) for clip in clips]


def groups_of(runs: Iterable[Dict[str, Any]]) -> Dict[str, str]:
    """Return {clip: its group} of all test clips of some runs."""
    return {clip: group for run in runs for clip, group in run["groups"].items()}


def seeds_in_a_round(runs: Dict[str, Runs]) -> int:
    """Return how many seeds make a round: the fewest that the runs allow.

    Round r of n seeds is seeds ``r n`` to ``r n + n - 1``; of a round 0 that no method
    has finished, what there is counts as a round.
    """
    return max(
        seed // (run["round"] + 1) + 1
        for own in runs.values()
        for seed, run in own.items()
    )


def whole_rounds(runs: Dict[str, Runs]) -> Dict[str, Runs]:
    """Leave out the runs of rounds that a method has not finished.

    A round begun is tested on some of the clips, on two of six speakers, say: its
    accuracy is no second measurement of what the first round measured. A method without
    a finished round keeps the fullest that it has.
    """
    size = seeds_in_a_round(runs)
    kept = {}
    for method, own in runs.items():
        rounds: Dict[int, Runs] = {}
        for seed, run in sorted(own.items()):
            rounds.setdefault(run["round"], {})[seed] = run
        whole = [r for r in rounds.values() if len(r) == size]
        counted = whole or [max(rounds.values(), key=len)]
        kept[method] = {seed: run for one in counted for seed, run in one.items()}
    return kept


def round_accuracies(runs: Runs) -> Tuple[float, ...]:
    """Return the accuracy of every round, in percent, over all of its test clips."""
    rounds: Dict[int, List[int]] = {}
    for run in runs.values():
        rounds.setdefault(run["round"], []).extend(right_answers(run).values())
    return tuple(100.0 * float(np.mean(rounds[number])) for number in sorted(rounds))


def group_interval(values: np.ndarray, groups: Sequence[str]) -> Tuple[float, float]:
    """Return the 95 % interval of the mean (clips,), groups drawn with replacement."""
    bootstrap = Bootstrap(groups, multinomial=True)
    return bootstrap.ratio(values, np.ones(len(values)))[1:3]


def confusion(runs: Runs) -> Tuple[List[str], np.ndarray]:
    """Return the classes, and counts (classes, classes): true by recognised."""
    spoken = {clip.split("/")[0] for r in runs.values() for clip in r["predictions"]}
    names = sorted(
        {*spoken, *(n for r in runs.values() for n in r["predictions"].values())}
    )
    place = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=int)
    for run in runs.values():
        for clip, answer in run["predictions"].items():
            counts[place[clip.split("/")[0]], place[answer]] += 1
    return names, counts


def option_curve(rows: Sequence[Row], option: str) -> Dict[str, List]:
    """Return the rows in which one option was varied: {method: [(value, row), ...]}.

    A row belongs to it whose word is ``METHOD:OPTION=VALUE`` with a number and nothing
    else, and the row of ``METHOD`` alone, with the value that it has by default, unless
    that value was trained by name. A method is kept if there are two values at least.
    """
    curves: Dict[str, Dict[float, Row]] = {}
    for row in rows:
        method, _, rest = row.method.partition(":")
        word, _, value = rest.partition("=")
        if word != option:
            continue
        try:
            curves.setdefault(method, {})[float(value)] = row
        except ValueError:  # several options, or a word
            continue
    for row in rows:
        default = _default_value(row.method, option)
        if row.method in curves and default is not None:
            curves[row.method].setdefault(default, row)
    return {method: sorted(c.items()) for method, c in curves.items() if len(c) > 1}


def _default_value(method: str, option: str) -> Optional[float]:
    """Return the number that an option of a method is by default; None: it is none."""
    if method not in available_downsamplers():
        return None
    kind = downsampler_class(method)
    parameter = inspect.signature(kind).parameters.get(option)
    value = kind.training_defaults.get(option, parameter and parameter.default)
    return float(value) if type(value) in (int, float) else None


def choose_option(rows: Sequence[Row], option: str) -> Dict[str, Tuple[float, Row]]:
    """Return {method: (best value, its row)} of an option, chosen by validation.

    Test clips have no say, except in a whole cross-validation, where every clip also
    validates a network of another seed. Of equal values the smallest is taken; values
    with fewer seeds than others have are left out.
    """
    chosen = {}
    for method, points in option_curve(rows, option).items():
        most = max(len(row.seeds) for _, row in points)
        whole = [point for point in points if len(point[1].seeds) == most]
        chosen[method] = max(whole, key=lambda p: (p[1].valid_accuracy, -p[0]))
    return chosen
