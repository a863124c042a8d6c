"""Statistics by hand, tables, pictures."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from espnet_adastride.errors import UserError
from espnet_adastride.experiments.classification.pictures import (
    plot_data_sets,
    plot_option,
)
from espnet_adastride.experiments.classification.results import (
    choose_option,
    compare,
    confusion,
    group_interval,
    option_curve,
    read_runs,
    seeds_in_a_round,
    sort_runs,
)
from espnet_adastride.experiments.classification.tables import (
    format_data_sets,
    format_table,
)
from espnet_adastride.experiments.records import read_record
from tests.wrong_records import refusal

ROOT = Path(__file__).resolve().parents[3]


def fake_runs(right):
    """Runs whose answers are given: {method: {seed: "110..."}}, a speaker a clip."""
    runs = {
        method: {
            seed: {
                "method": method,
                "seed": seed,
                "round": seed,
                "valid_accuracy": 50.0,
                "parameters": 1000,
                "rate": 8.0,
                "cpu_seconds": 10.0,
                "predictions": {
                    f"{'yes' if i % 2 else 'no'}/{i:02d}_nohash_0": (
                        ["no", "yes"][i % 2] if answer == "1" else "up"
                    )
                    for i, answer in enumerate(answers)
                },
            }
            for seed, answers in seeds.items()
        }
        for method, seeds in right.items()
    }
    for own in runs.values():
        for run in own.values():
            run["groups"] = {clip: clip.split("/")[1] for clip in run["predictions"]}
    return runs


def test_intervals_over_groups():
    # clips of one speaker count as one: the interval is that of two values, not of 200
    values = np.repeat([0.0, 1.0], 100)
    assert group_interval(values, ["a"] * 100 + ["b"] * 100) == (0.0, 1.0)
    low, high = group_interval(values, [str(i) for i in range(200)])
    assert low == pytest.approx(0.43, abs=0.01) and high == pytest.approx(
        0.57, abs=0.01
    )
    assert all(map(math.isnan, group_interval(values, ["a"] * 200)))


def test_a_clips_seeds_are_pooled():
    runs = fake_runs(
        {
            "strided_conv": {0: "1111000000", 1: "1111000000"},
            "better": {0: "1111111110", 1: "1111111110"},
            "equal": {0: "0111100000", 1: "1111000000", 2: "1111111111"},
        }
    )
    rows = {row.method: row for row in compare(runs, "strided_conv")}
    assert list(rows) == ["strided_conv", "better", "equal"]
    assert rows["strided_conv"].comparison is None
    assert rows["strided_conv"].accuracies == (40.0, 40.0)
    better = rows["better"].comparison
    # five clips, not ten answers: 2 / 2^5
    assert (better.better, better.worse, better.p) == (5, 0, 0.0625)
    assert better.p_holm == 0.125 and better.difference == pytest.approx(50.0)
    equal = rows["equal"].comparison  # seed 2 has no counterpart
    assert (equal.better, equal.worse, equal.p) == (1, 1, 1.0)
    assert rows["equal"].seeds == (0, 1, 2)
    table = format_table(compare(runs, "strided_conv"), runs, "strided_conv")
    assert "| `better` | 1,000 | 8.0 | 90.0 ± 0.0 |" in table
    assert "+50.0 [+20.0, +80.0] | 5 / 0 | 0.062 | 0.125 |" in table
    assert "seeds 0, 1; or 0, 1, 2." in table and "correction: none." in table
    # folds: every clip is one seed's, and counts once
    runs = fake_runs({"strided_conv": {0: "1100"}, "other": {0: "1111"}})
    for method, answers in (("strided_conv", "0101"), ("other", "1111")):
        further = fake_runs({method: {1: answers}})[method][1]
        answers = further["predictions"].items()
        further["predictions"] = {key.replace("/0", "/1"): a for key, a in answers}
        further["groups"] = {key: key for key in further["predictions"]}
        runs[method][1] = further
    first, row = compare(runs, "strided_conv")
    assert first.accuracies == (50.0, 50.0) and row.accuracies == (100.0, 100.0)
    assert row.comparison[2:5] == (4, 0, 0.125)
    assert "8 test clips in 8 groups" in format_table([first, row], runs, "none")


def test_a_round_is_all_folds_of_a_cross_validation():
    runs = fake_runs({"a": {0: "1100", 1: "11", 2: "1110", 3: "00"}})
    for seed, run in runs["a"].items():
        run["round"] = seed // 2
    (row,) = compare(runs, "none")
    assert row.accuracies == pytest.approx((400 / 6, 50.0))  # 4 of 6, 3 of 6
    table = format_table([row], runs, "none")
    assert "| 58.3 ± 11.8 |" in table and "deviation over the rounds" in table
    assert "seeds 0 to 3. Accuracy" in table


def test_a_round_begun_does_not_count():
    runs = fake_runs(
        {
            "strided_conv": {0: "11", 1: "00", 2: "11", 3: "11"},
            "begun": {0: "11", 1: "11", 2: "00"},
            "first": {1: "11"},
        }
    )
    for own in runs.values():
        for seed, run in own.items():
            run["round"] = seed // 2
            # a fold of the clips each, the same ones in every round
            fold = seed % 2
            clips = run["predictions"].items()
            run["predictions"] = {f"{key}.{fold}": name for key, name in clips}
            run["groups"] = {key: key for key in run["predictions"]}
    rows = {row.method: row for row in compare(runs, "strided_conv")}
    assert rows["strided_conv"].accuracies == (50.0, 100.0)
    # with seed 2, half a round, it would be 100 and 0
    assert rows["begun"].seeds == (0, 1) and rows["begun"].accuracies == (100.0,)
    assert rows["begun"].comparison.difference == pytest.approx(50.0)
    assert rows["first"].seeds == (1,)
    table = format_table(list(rows.values()), runs, "strided_conv")
    assert "as their round of 2 seeds is not finished: seed 2 of `begun`." in table
    assert "that of a part of the clips: seed 1 of `first`." in table
    # from the middle of one round to that of the next: none is whole
    middle = {"strided_conv": {s: runs["strided_conv"][s] for s in (1, 2)}}
    assert seeds_in_a_round(middle) == 2
    assert [row.seeds for row in compare(middle, "strided_conv")] == [(1,)]
    runs["begun"][3] = runs["strided_conv"][3]
    del runs["first"]
    table = format_table(compare(runs, "strided_conv"), runs, "strided_conv")
    assert (
        "finished" not in table and "| `begun` | 1,000 | 8.0 | 75.0 ± 35.4 |" in table
    )


def test_an_option_is_chosen_by_the_validation_clips():
    words = {"adastride:sigma_square=1": "0000", "adastride:sigma_square=20": "1111"}
    digits = {**words, "strided_conv": "1100", "adastride": "1110"}
    sounds = {**words, "strided_conv": "00000000", "adastride": "11111111"}
    tables = {}
    for name, answers in (("digits", digits), ("sounds", sounds)):
        runs = fake_runs({method: {0: one} for method, one in answers.items()})
        runs["adastride:sigma_square=1"][0]["valid_accuracy"] = 60.0
        if name == "sounds":
            runs["adastride:sigma_square=20"][0]["valid_accuracy"] = 70.0
            for method in words:  # the clips of strided_conv
                runs[method][0].update(
                    {k: runs["adastride"][0][k] for k in ("predictions", "groups")}
                )
        tables[name] = compare(runs, "strided_conv")
    table = format_data_sets(tables, "strided_conv", "sigma_square").splitlines()
    assert table[0] == "| method | digits | sounds |"
    assert "| `strided_conv` | 50.0 | 0.0 |" in table
    assert "| `adastride` | 75.0 | 100.0* |" in table  # 2 / 2^8, times 3
    # the worst on the digits' test clips
    line = "| `adastride`, sigma_square by validation | 0.0 (1) | 100.0* (20) |"
    assert line in table
    # the default may be the best; a value with fewer seeds does not count
    best = "adastride:sigma_square=1"
    seeds = {0: "1100", 1: "1100"}
    runs = fake_runs(
        {"adastride": seeds, best: {0: "1111"}, "adastride:sigma_square=20": seeds}
    )
    runs["adastride"][0]["valid_accuracy"] = 55.0
    runs[best][0]["valid_accuracy"] = 90.0
    value, row = choose_option(compare(runs, "none"), "sigma_square")["adastride"]
    assert (value, row.method) == (5.0, "adastride")


def test_an_option_trained_by_name_goes_before_the_default():
    words = ("adastride", "adastride:sigma_square=5", "adastride:sigma_square=2")
    rows = compare(fake_runs({word: {0: "1100"} for word in words}), "none")
    (points,) = option_curve(rows, "sigma_square").values()
    assert [(v, row.method) for v, row in points] == [(2.0, words[2]), (5.0, words[1])]


def test_the_picture_of_the_data_sets():
    answers = {"strided_conv": "1" * 8 + "00", "adastride": "1" * 10}
    answers.update({"avg_pool": "0" * 10, "adastride:sigma_square=2": "0" * 10})
    digits = compare(fake_runs({k: {0: v} for k, v in answers.items()}), "strided_conv")
    del answers["avg_pool"]
    sounds = compare(fake_runs({k: {0: v} for k, v in answers.items()}), "strided_conv")
    tables = {"digits": digits, "sounds": sounds}
    figure = plot_data_sets(tables, "strided_conv")
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        *("avg_pool", "adastride")
    ]
    dots = {}
    for axes in figure.axes:
        dots[axes.get_title()] = {
            (float(line.get_ydata()[0]), float(line.get_xdata()[0])): (
                line.get_fillstyle()
            )
            for line in axes.lines
            if line.get_marker() == "o"
        }
    # 8 clips worse, none better: p 0.008; corrected for three methods 0.023
    assert dots["digits"] == {(0.0, -80.0): "full", (1.0, 20.0): "none"}
    assert dots["sounds"] == {(1.0, 20.0): "none"}
    alone = compare(fake_runs({"adastride": {0: "10"}}), "strided_conv")
    with pytest.raises(UserError, match="was compared with strided_conv"):
        plot_data_sets({"digits": alone}, "strided_conv")


def test_a_table_without_the_reference_compares_nothing():
    runs = fake_runs({"better": {0: "1111111110", 1: "1111111110"}})
    alone = format_table(compare(runs, "none"), runs, "none")
    assert "Holm" not in alone
    assert "No method is compared with `none`, for want of finished runs" in alone
    words, counts = confusion(runs["better"])
    assert words == ["no", "up", "yes"]
    assert counts.tolist() == [[10, 0, 0], [0, 0, 0], [0, 2, 8]]


def test_a_curve_over_an_option():
    answers = {0: "1111100000", 1: "1111111000"}
    runs = fake_runs(
        {
            "strided_conv": answers,
            "adastride": answers,
            "adastride:sigma_square=20": answers,
            "adastride:sigma_square=0.5": {0: "1000000000", 1: "1110000000"},
            "adastride:sigma_square=5,score_bound=null": answers,
            "adastride_f:sigma_square=5": answers,
        }
    )
    rows = compare(runs, "strided_conv")
    (method, points), *rest = option_curve(rows, "sigma_square").items()
    assert method == "adastride" and not rest  # adastride_f has one value
    assert [value for value, _ in points] == [0.5, 5.0, 20.0]
    assert points[1][1].method == "adastride"  # 5 is what it has by default
    axes = plot_option(rows, "sigma_square", "strided_conv").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    means = lines["strided_conv, 95 % interval"].get_ydata()
    assert set(means) == {60.0} and axes.get_xscale() == "log"
    curve = next(line for line in axes.lines if list(line.get_xdata()) == [0.5, 5, 20])
    assert list(curve.get_ydata()) == [20.0, 60.0, 60.0]
    seeds = [line for line in axes.lines if list(line.get_xdata()) == [0.5, 0.5]]
    assert list(seeds[0].get_ydata()) == [10.0, 30.0]
    with pytest.raises(UserError, match="sigma: no method has finished runs"):
        plot_option(rows, "sigma", "strided_conv")


def test_runs_of_an_earlier_version_are_told(tmp_path):
    run = fake_runs({"a": {0: "11"}})["a"][0]
    del run["groups"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match="earlier version"):
        read_runs(tmp_path)


def test_runs_of_other_clips_are_not_compared(tmp_path):
    runs = fake_runs({"a": {0: "11"}, "b": {0: "111"}})
    for method in runs:
        (tmp_path / method).mkdir()
        path = tmp_path / method / "result.json"
        path.write_text(json.dumps(runs[method][0]))
    with pytest.raises(UserError, match="other clips"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    "place, value, words",
    [
        ("measured rate", None, "rate is not a number"),
        ("measured", {}, "'parameters'"),
        ("sets", None, "sets is not a mapping"),
        ("sets test predictions", "x", "groups and predictions are not mappings"),
        ("sets test groups", {}, "groups and predictions have different clips"),
        ("sets test round", "x", "round is not a number"),
        ("sets test round", -1, "round is not a number"),
        ("sets test", None, "sets.test is not a mapping"),
        ("sets test groups", None, "groups and predictions are not mappings"),
        ("timing cpu_seconds", "x", "timing.cpu_seconds is not a number"),
        ("timing", {}, "'training_seconds'"),
    ],
)
def test_a_record_with_a_wrong_value_is_refused(tmp_path, place, value, words):
    source = ROOT / "results/records/speech_commands_8x/merge_seed2.json.gz"
    content = json.loads(gzip.decompress(source.read_bytes()))
    path = tmp_path / "merge_seed2.json.gz"
    assert words in refusal(
        path, content, place, value, lambda path: sort_runs([read_record(path)])
    )
