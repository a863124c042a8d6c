"""Numbers on local strides, against answers worked out by hand."""

import json

import numpy as np
import pytest

from espnet_adastride.evaluation.stride_statistics import (
    StrideStatistics,
    auc,
    classes_at,
    inside,
    instants,
    local_strides,
    mutual_information,
    near,
    phone_class,
    relation,
)
from espnet_adastride.report.charts import corpus_lines
from espnet_adastride.timing.ctc import Timed


def test_local_strides_are_the_lengths_of_the_frames_around():
    boundaries = np.array([0.0, 0.02, 0.05, 0.05, 0.1])
    found = local_strides(boundaries, np.array([0.01, 0.03, 0.05, 0.09]), 0.01)
    np.testing.assert_allclose(found, [2, 3, 5, 5])
    np.testing.assert_allclose(instants(0.035), [0.005, 0.015, 0.025])


@pytest.mark.parametrize(
    "values, marked, expected",
    [
        ([1, 2, 3, 4], [1, 1, 0, 0], 1.0),
        ([1, 2, 3, 4], [0, 0, 1, 1], 0.0),
        ([1, 2, 3, 4], [1, 0, 1, 0], 0.75),
        ([5, 5, 5, 5], [1, 0, 1, 0], 0.5),
        ([1, 2, 2, 3], [1, 1, 0, 0], 0.875),  # one of four pairs is a tie
    ],
)
def test_auc(values, marked, expected):
    assert auc(np.array(values), np.array(marked)) == pytest.approx(expected)


def test_auc_and_information_are_those_of_scikit_learn():
    """Which is not a dependency: it takes 4 s to import, for two short formulas."""
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    values = generator.integers(0, 9, 500) / 4  # with ties
    marked = generator.random(500) < 0.1 + 0.1 * values
    assert auc(values, marked) == pytest.approx(
        1.0 - metrics.roc_auc_score(marked, values), abs=1e-12
    )
    nats = metrics.mutual_info_score(marked, (4 * values).astype(int))
    assert mutual_information(marked, values) == pytest.approx(
        nats / np.log(2), abs=1e-12
    )


def test_auc_without_a_pair_is_none():
    assert np.isnan(auc(np.arange(3), np.ones(3)))
    assert relation([np.arange(3.0)], [np.zeros(3, dtype=bool)]) is None


def test_mutual_information():
    a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert mutual_information(a, b) == pytest.approx(0.0, abs=1e-12)
    assert mutual_information(a, a) == pytest.approx(1.0)
    # P(a) = 3/4, 1/4; told but for the two in the first cell
    part = mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0]))
    assert part == pytest.approx(0.8112781 - 0.5)


def test_marks_in_time():
    words = [Timed("A", 0.1, 0.2, 1.0), Timed("B", 0.5, 0.6, 1.0)]
    times = np.array([0.05, 0.1, 0.19, 0.2, 0.3, 0.55])
    assert inside(words, times).tolist() == [False, True, True, False, False, True]
    assert near(words, times, 0.02).tolist() == [False, True, True, True, False, False]
    assert not near([], times).any()
    phones = [Timed("AH0", 0.0, 0.1, 1.0), Timed("SH", 0.1, 0.2, 1.0)]
    assert classes_at(phones, times).tolist() == [
        "vowel", "fricative", "fricative", "silence", "silence", "silence"
    ]  # fmt: skip
    names = ["t", "JH", "NG", "er1", "", "sil", "Q"]
    expected = "stop affricate nasal vowel silence silence other".split()
    assert [phone_class(name) for name in names] == expected


def test_a_corpus_whose_speech_has_short_frames():
    statistics = StrideStatistics("adastride, 4x", 0.01, "by hand")
    word = [Timed("A", 0.4, 0.8, 1.0)]
    boundaries = np.r_[0, 0.2, np.arange(0.4, 0.8, 0.02), 0.8, 1.0]
    for _ in range(6):
        statistics.add(boundaries, word, [Timed("AA1", 0.4, 0.8, 1.0)])
    numbers = statistics.numbers()
    assert numbers["seconds"] == 6.0 and numbers["frames"] == 6 * 23
    assert set(numbers["groups"]) == {"vowel", "silence"}
    assert numbers["groups"]["vowel"]["p50"] == pytest.approx(2.0)
    assert numbers["groups"]["vowel"]["frames_per_second"] == pytest.approx(50.0)
    assert numbers["groups"]["silence"]["p50"] == pytest.approx(20.0)
    speech = numbers["relations"]["speech"]
    assert speech["auc"] == speech["low"] == speech["high"] == 1.0
    # all that is to be told: H(0.4)
    assert speech["bits"] == pytest.approx(0.9709506)
    assert speech["bits_most"] == pytest.approx(0.9709506)
    # shifted by half, 30 of the 40 marked instants of an utterance are in silence
    assert speech["bits_chance"] < 0.5
    assert numbers["phone_class_bits"] == pytest.approx(0.9709506)


def test_strides_that_know_nothing():
    rng = np.random.default_rng(0)
    strides = [rng.random(500) for _ in range(20)]
    marks = [rng.random(500) < 0.5 for _ in range(20)]
    found = relation(strides, marks)
    assert found.low < 0.5 < found.high and found.high - found.low < 0.05
    assert found.bits < 0.003


@pytest.mark.parametrize("utterances", [1, 5])
def test_too_few_utterances_show_nothing(utterances):
    """Drawn with replacement, one is always itself: an interval of no width."""
    rng = np.random.default_rng(0)
    statistics = StrideStatistics("adastride, 4x", 0.01, "by hand")
    for _ in range(utterances):
        edges = np.cumsum(np.r_[0.0, rng.uniform(0.02, 0.1, 100)])
        statistics.add(edges, [Timed("A", 0.2, 1.0, 1.0), Timed("B", 1.5, 2.0, 1.0)])
    numbers = json.loads(json.dumps(statistics.numbers(), allow_nan=False))
    assert {(r["low"], r["high"]) for r in numbers["relations"].values()} == {
        (None, None)
    }
    lines = corpus_lines(numbers)[1:]
    assert len(lines) == 3
    assert all("are not shown to differ" in line for line in lines)
    assert all("[too few utterances]" in line for line in lines)
