"""Labels beside points cover as little as they can."""

import pytest

from espnet_adastride.report.style import (
    COLOURS,
    drawing,
    label_points,
    line_style,
    mark_style,
)


def test_each_line_of_a_chart_has_its_own_style():
    """Also without colours; the baseline, line 0, has its colour alone."""
    marks = [tuple(mark_style(number).values()) for number in range(65)]
    assert len(set(marks)) == 65
    assert [colour for colour, _ in marks].count(COLOURS[0]) == 1
    grey = [{**line_style(number), "color": ""} for number in range(26)]
    assert len({(s["marker"], s.get("markerfacecolor")) for s in grey}) == 26
    assert [line_style(number)["linestyle"] for number in (0, 5)] == ["-", "-"]
    assert line_style(6)["linestyle"] != "-"


def label_at(others):
    """Return the offset of a label that may be above, or below, its point."""
    with drawing(4, 4) as figure:
        axes = figure.subplots()
        axes.set_xlim(0, 10)
        axes.set_ylim(0, 10)
        label_points(axes, [("12.5 Hz", (2, 5), {})], [(7, 18), (7, -18)], others)
        (label,) = axes.texts
        assert label.get_path_effects()  # a white edge, over lines
        return label.get_position()


@pytest.mark.parametrize(
    "others, place",
    [
        ([], (7, 18)),
        ([(3, 6)], (7, -18)),
        # neither place is free: below, one point is covered; above, two
        ([(3, 6), (3.2, 6), (3, 4)], (7, -18)),
        ([(3, 6), (3, 4), (3.2, 4)], (7, 18)),
    ],
)
def test_a_label_covers_the_fewest_points(others, place):
    assert label_at(others) == place
