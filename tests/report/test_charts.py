"""Charts of trainings and corpora show what they were given, however little it is."""

import warnings

import numpy as np
import pytest
from matplotlib.text import Text

from espnet_adastride.evaluation.learning_curves import Curve
from espnet_adastride.evaluation.stride_statistics import StrideStatistics
from espnet_adastride.report.charts import (
    PANELS,
    StreamRow,
    histogram_edges,
    legend,
    plot_corpus,
    plot_panel,
    plot_stream,
    plot_training,
)
from espnet_adastride.report.style import MARKERS, to_svg
from espnet_adastride.timing.ctc import Timed

PANEL = {panel[0]: panel for panel in PANELS}


def test_the_legend_has_a_sign_for_every_marker():
    """Trainings are told apart by colour and marker alone, in the legend, too."""
    found = legend([str(number) for number in range(20)])
    assert [name for name, _, _ in found] == [str(number) for number in range(20)]
    assert len({sign for _, _, sign in found}) == len(MARKERS)
    assert len({(colour, sign) for _, colour, sign in found}) == 20
    drawn = plot_panel(
        {name: {"loss": {"valid": curve(1, 2)}} for name, _, _ in found}, PANEL["loss"]
    )
    marks = [(m.get_color(), m.get_marker()) for m in drawn.axes[0].lines]
    assert [colour for colour, _ in marks] == [colour for _, colour, _ in found]
    assert len(set(marks)) == 20
    assert {line.get_linestyle() for line in drawn.axes[0].lines} == {"-"}


def curve(*values, first=1):
    return Curve(np.arange(first, first + len(values)), np.array(values, dtype=float))


def runs(stat, **phases):
    return {"asr_one": {stat: phases}}


def ticks(axis):
    low, high = sorted(axis.get_view_interval())
    return [t for t in axis.get_majorticklocs() if low <= t <= high]


@pytest.mark.parametrize(
    "stat, train, valid",
    [
        ("loss", 120.0, 9.0),  # logarithmic
        ("loss", 9.0, 9.0),
        ("acc", 0.3, 0.31),
        ("empty_slots", 0.0, 0.0),
        ("largest_stride", 4.0, 4000.0),
    ],
)
def test_one_epoch_is_seen(stat, train, valid):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_panel(
            runs(stat, train=curve(train), valid=curve(valid)), PANEL[stat]
        )
        assert "<svg" in to_svg(figure, "a chart")
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low < high and (low >= 0 or train == valid == 0)
    for line, value in zip(axes.lines, (train, valid)):
        assert line.get_marker() not in ("", "None") and line.get_markersize() >= 6
        assert line.get_xydata().tolist() == [[1.0, value]]
        assert low <= value <= high
    # one mark does not hide the other
    assert axes.lines[0].get_markersize() > axes.lines[1].get_markersize() + 2
    assert axes.lines[0].get_markerfacecolor() == "none"
    # there is no epoch 0.75
    assert ticks(axes.xaxis) == [1.0]
    assert len(ticks(axes.yaxis)) >= 2


def test_epochs_are_whole_numbers():
    for last in (1, 2, 3, 7, 40):
        figure = plot_panel(runs("acc", valid=curve(*range(last))), PANEL["acc"])
        found = ticks(figure.axes[0].xaxis)
        assert found and all(tick == int(tick) for tick in found)
        assert 1 <= found[0] and found[-1] <= last
    late = plot_panel(runs("acc", valid=curve(0.5, first=7)), PANEL["acc"])
    assert late.axes[0].get_xlim()[1] == 7.5


@pytest.mark.parametrize("scale", [1e-6, 2e-4, 0.04, 1.0, 3e3, 9e5])
@pytest.mark.parametrize("stat", ["empty_slots", "loss"])
def test_labels_are_within_the_chart(scale, stat):
    some = runs(stat, train=curve(1.1 * scale, 0.5 * scale), valid=curve(scale, 0.0))
    for figure in (plot_panel(some, PANEL[stat]), plot_training(some)):
        figure.draw_without_rendering()
        (axes,) = figure.axes
        written = [t for t in axes.get_yticklabels() if t.get_text()]
        assert len(written) >= 3
        assert all(t.get_window_extent().x0 >= 0 for t in written)
        # and each says its tick
        for tick, label in zip(axes.get_yticks(), axes.get_yticklabels()):
            said = float(label.get_text().replace("\u2212", "-"))
            if not axes.yaxis.get_offset_text().get_text():
                assert said == pytest.approx(tick, rel=1e-6, abs=1e-12)


def test_no_epoch_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_panel({"asr_one": {}}, PANEL["loss"])
        to_svg(figure, "a chart")
    assert [t.get_text() for t in figure.axes[0].texts] == ["no values"]
    with pytest.raises(ValueError, match="no training has finished an epoch"):
        plot_training({"asr_one": {}})


def test_ticks_of_a_wide_range_reach_its_end():
    figure = plot_panel(runs("loss", valid=curve(1e5, 1.0)), PANEL["loss"])
    found = ticks(figure.axes[0].yaxis)
    assert found[0] == 1.0 and found[-1] == pytest.approx(1e5) and len(found) <= 8


@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.3, 5.0])
def test_the_histogram_holds_every_stride(spread):
    strides = 8.0 * np.exp(spread * np.random.default_rng(0).standard_normal(5000))
    edges = histogram_edges(strides)
    assert edges[0] <= strides.min() and edges[-1] > strides.max()
    assert np.histogram(strides, edges)[0].sum() == len(strides)
    ratio = edges[1:] / edges[:-1]
    np.testing.assert_allclose(ratio, ratio[0])
    # no more than a cell is empty on either side, and there are not too many
    counts = np.histogram(strides, edges)[0]
    assert counts[:2].any() and counts[-2:].any() and len(counts) <= 122


def corpus(phones=True):
    """Frames of 2 in a word of 0.4 s, of 20 elsewhere, and one of 300: 0.1 % of all."""
    statistics = StrideStatistics("adastride, 4x", 0.01, "by hand")
    word = [Timed("A", 0.4, 0.8, 1.0)]
    frames = np.r_[0, 0.2, np.arange(0.4, 0.8, 0.02), 0.8, 1.0]
    for _ in range(30):
        phone = [Timed("AA1", 0.4, 0.8, 1.0)] if phones else None
        statistics.add(frames, word, phone)
    statistics.add(np.array([0, 3.0]), [], [] if phones else None)
    return statistics


def bars(axes):
    return [patch.get_data() for patch in axes.patches]


def test_no_bar_of_a_corpus_is_cut():
    statistics = corpus()
    figure = plot_corpus(statistics)
    axes = figure.axes[0]
    (low, high), top = axes.get_xlim(), axes.get_ylim()[1]
    for data in bars(axes):
        assert data.values.sum() == pytest.approx(100)  # nothing is left out
        assert low < data.edges[0] and data.edges[-1] < high
        assert data.values.max() < top
        assert max(ticks(axes.yaxis)) == 100  # all speech is in one cell
    strides = np.concatenate(statistics.strides)
    silence = bars(axes)[0]  # the rare one has a bar of its own, where it belongs
    full = np.flatnonzero(silence.values)
    assert strides.max() == pytest.approx(300)
    assert silence.edges[full[-1]] <= 300 <= silence.edges[full[-1] + 1]
    assert silence.values[full[-1]] == pytest.approx(100 * 300 / (30 * 60 + 300))
    # the groups' lines end within their axes
    low, high = figure.axes[1].get_xlim()
    ends = np.concatenate([line.get_xdata() for line in figure.axes[1].lines])
    assert low < ends.min() and ends.max() < high


def test_nearly_uniform_strides_have_ticks():
    statistics = StrideStatistics("adastride, 4x", 0.01, "by hand")
    frames = np.cumsum(np.tile([0.034, 0.036, 0.038], 30))
    for _ in range(3):
        statistics.add(frames, [Timed("A", 0.4, 0.8, 1.0)], None)
    for axes in plot_corpus(statistics).axes:
        assert len(ticks(axes.xaxis)) >= 2


@pytest.mark.parametrize("phones", [True, False])
def test_what_a_corpus_says_is_within_the_picture(phones):
    figure = plot_corpus(corpus(phones))
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    written = [
        t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()
    ]
    for text in written:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0, text.get_text()
        assert box.x1 <= width and box.y1 <= height, text.get_text()
    said = "\n".join(text.get_text() for text in written)
    group = "by phone class" if phones else "in speech and silence"
    for words in (
        "share of speech or silence (%)",
        "local stride (input frames per output frame)",
        f"Percentiles {group} (% of the time)",
        "median",
        "middle 50 %",
        "middle 90 %",
        "are shorter than in silence: AUC 1.000 [1.000, 1.000]",
    ):
        assert words in said


def test_the_sentence_follows_the_interval():
    from espnet_adastride.report.charts import corpus_lines

    numbers = corpus().numbers()
    one = numbers["relations"]["speech"]
    for low, high, said in (
        (0.6, 0.7, "shorter than in silence"),
        (0.3, 0.4, "longer than in silence"),
        (0.4, 0.6, "not shown to differ from those in silence"),
    ):
        one.update(low=low, high=high)
        line = next(x for x in corpus_lines(numbers) if x.startswith("Strides in sp"))
        assert said in line


def test_words_of_a_stream_are_not_formulas():
    word = Timed("$\\US$", 0.2, 0.8, 1.0)
    figure = plot_stream([StreamRow(0.5, [word], [1.0])], 1.0)
    figure.draw_without_rendering()
    assert word.text in [text.get_text() for text in figure.findobj(Text)]
