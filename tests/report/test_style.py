"""Labels beside points cover as little as they can."""

import pytest

from espnet_adastride.report.style import drawing, label_points


def label_at(others):
    """Return the offset of a label that may be above, or below, its point."""
    with drawing(4, 4) as figure:
        axes = figure.subplots()
        axes.set_xlim(0, 10)
        axes.set_ylim(0, 10)
        label_points(axes, [("12.5 Hz", (2, 5), {})], [(7, 18), (7, -18)], others)
        (label,) = axes.texts
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
