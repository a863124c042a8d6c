"""From positions to seconds: known answers, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_adastride.timing.boundaries import (
    boundaries_in_seconds,
    compose_boundaries,
    share_of_frames,
    slot_boundaries,
    uniform_boundaries,
)


def test_uniform_positions_give_even_slots():
    # 9 steps onto 5 slots: p_t = t / 2 crosses l + 0.5 at t = 2 l + 1, its centre + 0.5
    boundaries = slot_boundaries(np.arange(9) / 2, 9, 5)
    np.testing.assert_allclose(boundaries, [0, 1.5, 3.5, 5.5, 7.5, 9])


def test_stride_one_gives_each_step_its_slot():
    np.testing.assert_allclose(slot_boundaries(np.arange(4), 4, 4), [0, 1, 2, 3, 4])


def test_skipped_slots_share_the_step_that_jumped_them():
    # from the centre of step 1 (1.5) to that of step 2 (2.5) the position goes 0 -> 3
    boundaries = slot_boundaries(np.array([0.0, 0.0, 3.0, 3.0]), 4, 4)
    np.testing.assert_allclose(boundaries, [0, 1.5 + 1 / 6, 2, 2.5 - 1 / 6, 4])
    # slots 1 and 2, which no step is nearest to, have a third of a step each
    np.testing.assert_allclose(np.diff(boundaries)[1:3], 1 / 3)


def test_a_huge_jump_squeezes_its_slots_to_nothing():
    widths = np.diff(slot_boundaries(np.array([0.0] * 50 + [99.0] * 50), 100, 100))
    np.testing.assert_allclose(widths[1:-1], 1 / 99)
    np.testing.assert_allclose(widths[[0, -1]], 49.5 + 0.5 / 99)


def test_a_plateau_on_the_boundary_is_halved():
    # the position rests at 0.5 from the centre of step 1 (1.5) to that of step 3 (3.5)
    boundaries = slot_boundaries(np.array([0.0, 0.5, 0.5, 0.5, 1.0]), 5, 2)
    np.testing.assert_allclose(boundaries, [0, 2.5, 5])


@pytest.mark.parametrize(
    "n, m, expected", [(0, 0, [0]), (1, 1, [0, 1]), (5, 1, [0, 5])]
)
def test_few_steps(n, m, expected):
    np.testing.assert_array_equal(slot_boundaries(np.zeros(6), n, m), expected)


@given(
    st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=40),
    st.integers(1, 40),
)
def test_boundaries_rise_from_0_to_n(shares, m):
    n = len(shares)
    m = min(m, n)
    positions = np.cumsum([0.0, *shares[1:]])
    if positions[-1] > 0:
        positions = np.minimum(positions / positions[-1] * (m - 1), m - 1)
    boundaries = slot_boundaries(positions, n, m)
    assert boundaries.shape == (m + 1,)
    assert boundaries[0] == 0 and boundaries[-1] == n
    assert np.all(np.diff(boundaries) >= -1e-9)


def test_a_boundary_lies_where_the_position_crosses():
    rng = np.random.default_rng(0)
    positions = np.cumsum(np.append(0, rng.dirichlet(np.full(79, 0.3)))) * 19
    inner = slot_boundaries(positions, 80, 20)[1:-1]
    there = np.interp(inner, np.arange(80) + 0.5, positions)
    np.testing.assert_allclose(there, np.arange(19) + 0.5, atol=1e-9)


@pytest.mark.parametrize(
    "positions, n, m, words",
    [
        ([0.0, 2.0, 1.0], 3, 3, "must not decrease"),
        ([0.0, np.nan, 1.0], 3, 3, "must not decrease"),
        ([0.0, 1.0, 2.0], 3, 2, r"in \[0, 1\]"),
        ([0.0, 1.0], 3, 2, "at least 3 long"),
        ([0.0, 1.0], 2, 3, "2 steps to 3 slots"),
        ([0.0, 1.0], 2, 0, "2 steps to 0 slots"),
    ],
)
def test_positions_that_do_not_fit_are_refused(positions, n, m, words):
    with pytest.raises(ValueError, match=words):
        slot_boundaries(np.array(positions), n, m)


def test_uniform_stage_cuts_its_last_slot_short():
    np.testing.assert_array_equal(uniform_boundaries(7, 4, 2), [0, 2, 4, 6, 7])
    np.testing.assert_allclose(uniform_boundaries(5, 2, 2.5), [0, 2.5, 5])


def test_strided_convolution_is_centred_on_its_kernel():
    # kernel 3, padding 1: slot l reads steps 2 l - 1 .. 2 l + 1, centred at 2 l + 0.5
    boundaries = uniform_boundaries(8, 4, 2, shift=-0.5)
    np.testing.assert_allclose(boundaries, [0, 1.5, 3.5, 5.5, 8])
    middle = (boundaries[1:-2] + boundaries[2:-1]) / 2
    np.testing.assert_allclose(middle, [2.5, 4.5])


def test_two_uniform_stages_are_one():
    both = compose_boundaries(
        [uniform_boundaries(23, 12, 2), uniform_boundaries(12, 4, 3)]
    )
    np.testing.assert_array_equal(both, uniform_boundaries(23, 4, 6))


def test_composition_follows_the_first_stage():
    # the second stage's boundary in the middle of slot 1, which covers steps 1 .. 7
    both = compose_boundaries([np.array([0.0, 1.0, 7.0, 8.0]), np.array([0.0, 1.5, 3])])
    np.testing.assert_array_equal(both, [0, 4, 8])


def test_uniform_positions_compose_to_even_slots():
    first = slot_boundaries(np.arange(17) / 2, 17, 9)
    second = slot_boundaries(np.arange(9) / 2, 9, 5)
    np.testing.assert_allclose(
        np.diff(compose_boundaries([first, second]))[1:-1], 4, atol=1e-12
    )


def test_stages_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="stage 2 reads 5 steps.*has 4 slots"):
        compose_boundaries([uniform_boundaries(8, 4, 2), uniform_boundaries(5, 3, 2)])
    with pytest.raises(ValueError, match="no stage"):
        compose_boundaries([])


def test_seconds():
    # frames of 10 ms centred at 0, 10, 20 ... ms
    seconds = boundaries_in_seconds(np.array([0, 2, 4, 5]), 0.01, -0.005, 0.042)
    np.testing.assert_allclose(seconds, [0, 0.015, 0.035, 0.042])


def test_shares_of_time_and_frames():
    # speech from 1 to 3 of 4 s; frames [0, 1], [1, 1] (empty), [1, 2], [2, 4]
    time, frames = share_of_frames(
        np.array([0.0, 1, 1, 2, 4]),
        np.array([0.0, 1, 3, 4]),
        np.array([False, True, False]),
    )
    assert time == pytest.approx(0.5)
    assert frames == pytest.approx((0 + 1 + 1 + 0.5) / 4)


def test_uniform_frames_fall_on_speech_as_often_as_the_time():
    edges = np.linspace(0, 3, 301)
    inside = np.random.default_rng(1).random(300) < 0.4
    time, frames = share_of_frames(np.linspace(0, 3, 38), edges, inside)
    assert frames == pytest.approx(time, abs=1e-12)
