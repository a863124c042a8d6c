"""When the encoder's frames are: known answers in seconds, worked out by hand.

10 ms from one feature frame to the next; frame t is centred at t times that.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("espnet2")

from espnet_adastride.downsampling.stages import StageTrace  # noqa: E402
from espnet_adastride.errors import UnknownTimesError  # noqa: E402
from espnet_adastride.plugin.espnet import (  # noqa: E402
    STOCK_SUBSAMPLINGS,
    Conv2dSubsampling,
)
from espnet_adastride.plugin.frame_times import (  # noqa: E402
    FrameTimes,
    convolution_boundaries,
    frame_times,
    join_times,
)
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling  # noqa: E402

RATE, HOP = 8000, 80


def model_with(embed, center=True):
    stft = SimpleNamespace(hop_length=HOP, n_fft=256, center=center)
    return SimpleNamespace(
        encoder=SimpleNamespace(embed=embed),
        frontend=SimpleNamespace(stft=stft),
        preencoder=None,
    )


def layer_of(method, stride, **options):
    return AdaptiveSubsampling(
        20,
        8,
        pos_enc=torch.nn.Identity(),
        method=method,
        stride=stride,
        channels=4,
        **options,
    ).eval()


def times_of(layer, *positions, features, center=True):
    """Return frame times of positions that a hand has chosen."""
    trace = [
        StageTrace(None, None, None if p is None else torch.tensor([p]), None)
        for p in positions
    ]
    samples = (features - 1) * HOP + (60 if center else 256)
    frames = layer.output_lengths(features)
    return frame_times(model_with(layer, center), trace, samples, RATE, frames)


def test_extreme_positions():
    # the position crosses 0.5 between the centres of steps 2 and 3, at 3 steps
    times = times_of(layer_of("adastride", [2]), [0.0, 0.0, 0.0, 1.0], features=4)
    np.testing.assert_allclose(times.boundaries, [0, 0.025, 0.0375])
    np.testing.assert_allclose(times.uniform, [0, 0.010, 0.0375])


def test_two_stages_composed_by_hand():
    # the first stage's slots are at 0-5, 5-6, 6-7, 7-8; the second's meet after two
    times = times_of(
        layer_of("adastride", [2, 2]),
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0],
        [0.0, 0.25, 0.75, 1.0],
        features=8,
    )
    np.testing.assert_allclose(times.boundaries, [0, 0.055, 0.0775])
    np.testing.assert_allclose(times.uniform, [0, 0.020, 0.0775])


def test_a_strided_stage_before_an_adaptive_one():
    # slots of the convolution, centred on their kernels: 0, 1.5, 3.5, 5.5, 8
    layer = layer_of(["strided_conv", "adastride"], [2, 2])
    times = times_of(layer, None, [0.0, 0.25, 0.75, 1.0], features=8)
    np.testing.assert_allclose(times.boundaries, [0, 0.030, 0.0775])


def test_a_learned_stride_counts_as_learned():
    layer = layer_of("diff_stride", [2])
    layer.downsamplers[0].stride_change.data.fill_(1.0)
    times = times_of(layer, None, features=9)
    np.testing.assert_allclose(times.boundaries, [0, 0.015, 0.045, 0.0875])
    np.testing.assert_allclose(times.uniform, times.boundaries)


def test_segments_have_the_times_of_their_steps():
    layer = layer_of("merge", [2])
    x = torch.zeros(1, 6, 4)
    x[0, :2, 0], x[0, 2:, 1] = 1.0, 1.0  # the cuts: behind step 2, then 1
    positions = layer.downsamplers[0](x, torch.tensor([6])).positions[0].tolist()
    times = times_of(layer, positions, features=6)
    # slots of one, one and four steps; a frame is centred at its number
    np.testing.assert_allclose(times.boundaries[1], 0.005)
    assert abs(times.boundaries[2] - 0.015) < 0.01 / 6


def test_a_rate_by_the_content_counts_as_it_came_out():
    layer = layer_of("hnet", [2, 2], exact=False)
    # 8 steps, 6 segments (3 + 5 of them), 2 segments
    first, second = [0.0, 0.0, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0], [0, 0, 0, 1.0, 1, 1]
    trace = [
        StageTrace(torch.tensor([8]), torch.tensor([6]), torch.tensor([first]), None),
        StageTrace(torch.tensor([6]), torch.tensor([2]), torch.tensor([second]), None),
    ]
    times = frame_times(model_with(layer), trace, 7 * HOP + 60, RATE, 2)
    np.testing.assert_allclose(times.boundaries, [0, 0.035, 0.0775])
    np.testing.assert_allclose(times.windows, [0, 0.035, 0.0775])


def test_an_stft_without_centring_is_half_a_window_later():
    layer = layer_of("adastride", [2])
    times = times_of(layer, [0.0, 0.0, 0.0, 1.0], features=4, center=False)
    np.testing.assert_allclose(times.boundaries[1], 0.025 + 0.016)


@pytest.mark.parametrize("stages", [[2, 2], [2, 2, 2]])
def test_constant_scores_are_strided_convolutions_and_these_are_uniform(stages):
    features = 2 ** len(stages) * 6 + 1  # whose stages end on their last step
    found = []
    for method in ("adastride", "strided_conv"):
        layer = layer_of(method, stages)  # scores start at zero
        with torch.no_grad():
            frames = layer(torch.randn(1, features, 20), None)[0].size(1)
        samples = (features - 1) * HOP
        found.append(
            frame_times(model_with(layer), layer.take_trace(), samples, RATE, frames)
        )
    for times in found:
        np.testing.assert_allclose(times.boundaries, times.uniform, atol=1e-9)
    np.testing.assert_allclose(found[0].boundaries, found[1].boundaries)
    assert len(found[0].boundaries) == 8


def test_boundaries_rise_and_stay_within_the_recording():
    layer = layer_of("adastride", 8)
    for downsampler in layer.downsamplers:
        torch.nn.init.normal_(downsampler.score.weight, std=3.0)
    for features in (7, 50, 333):
        with torch.no_grad():
            frames = layer(torch.randn(1, features, 20) * 3, None)[0].size(1)
        samples = (features - 1) * HOP + 79
        trace = layer.take_trace()
        times = frame_times(model_with(layer), trace, samples, RATE, frames)
        for edges in (times.boundaries, times.uniform, times.windows):
            assert len(edges) == frames + 1 and np.all(np.diff(edges) >= 0)
            assert (edges[0], edges[-1]) == (0.0, samples / RATE)


def test_espnets_own_convolutions():
    embed = Conv2dSubsampling(20, 4, 0.0)
    # 15 -> 7 -> 3 frames, centred on feature frames 3, 7 and 11
    np.testing.assert_allclose(convolution_boundaries(embed, 15), [0, 5.5, 9.5, 15])
    times = frame_times(model_with(embed), (), 14 * HOP, RATE, 3)
    np.testing.assert_allclose(times.boundaries, [0, 0.05, 0.09, 0.14])
    # asr_align takes them for 0, 40 and 80 ms
    np.testing.assert_allclose(times.uniform, [0, 0.02, 0.06, 0.14])


@pytest.mark.parametrize("kind", STOCK_SUBSAMPLINGS)
def test_espnets_frames_lie_where_they_read(kind):
    embed = kind(40, 2, 0.0, pos_enc=torch.nn.Identity())
    for value in embed.parameters():
        value.data.fill_(0.1)
    x = torch.ones(1, 75, 40, requires_grad=True)
    output, _ = embed(x, None)
    boundaries = convolution_boundaries(embed, 75)
    assert len(boundaries) == output.size(1) + 1
    middle = (boundaries[1:] + boundaries[:-1]) / 2
    for frame in range(1, output.size(1) - 1):
        (grad,) = torch.autograd.grad(output[0, frame].sum(), x, retain_graph=True)
        weight = grad[0].sum(dim=1)
        centre = (weight * (torch.arange(75) + 0.5)).sum() / weight.sum()
        # the kernel of 5 and stride 3 is at most half a frame off its middle
        assert centre.item() == pytest.approx(middle[frame], abs=1e-3)


def test_adaptive_frames_of_unknown_origin_have_no_times():
    layer = layer_of("adastride", [2])
    trace = [StageTrace(None, None, torch.zeros(1, 9), None)]
    model = model_with(layer)
    # something behind the layer shortens them
    with pytest.raises(UnknownTimesError, match="gave 3 frames and its input layer 5"):
        frame_times(model, trace, 8 * HOP, RATE, 3)
    model.frontend = torch.nn.Identity()
    with pytest.raises(UnknownTimesError, match="frontend Identity: when its frames"):
        frame_times(model, trace, 8 * HOP, RATE, 5)


def test_espnets_frames_of_unknown_origin_are_spread_evenly(caplog):
    for model, frames in (
        (model_with(torch.nn.Linear(2, 2)), 4),  # nine features
        (SimpleNamespace(encoder=None, frontend=None, preencoder=None), 5),
    ):
        with caplog.at_level("WARNING"):  # whatever ESPnet has set before
            times = frame_times(model, (), 8 * HOP, RATE, frames)
        np.testing.assert_allclose(times.boundaries, np.linspace(0, 0.08, frames + 1))
        assert not times.known and "spread evenly" in caplog.text


def test_pieces_of_a_recording_are_joined():
    one = FrameTimes(*np.array([[0, 0.1, 0.3], [0, 0.15, 0.3], [0, 0.2, 0.3]]))
    two = FrameTimes(*np.array([[0, 0.2, 0.25], [0, 0.1, 0.2], [0, 0.05, 0.3]]))
    whole = join_times([one, two], [0.0, 0.3], 0.6)
    np.testing.assert_allclose(whole.boundaries, [0, 0.1, 0.3, 0.5, 0.6])
    np.testing.assert_allclose(whole.uniform, [0, 0.15, 0.3, 0.4, 0.6])
    np.testing.assert_allclose(whole.windows, [0, 0.2, 0.3, 0.35, 0.6])
    assert whole.known and whole.lowest is None
    assert not join_times([one, two._replace(known=False)], [0.0, 0.3], 0.6).known
    parts = [one._replace(lowest=two), two._replace(lowest=one)]
    lowest = join_times(parts, [0.0, 0.3], 0.6).of_strides()
    np.testing.assert_allclose(lowest.boundaries, [0, 0.2, 0.3, 0.4, 0.6])


def test_a_frame_for_every_feature():
    """``input_layer: linear``: centred on their number times the hop."""
    times = frame_times(model_with(torch.nn.Linear(2, 2)), (), 4 * HOP, RATE, 5)
    expected = [0, 0.005, 0.015, 0.025, 0.035, 0.04]
    np.testing.assert_allclose(times.boundaries, expected)
    np.testing.assert_allclose(times.uniform, expected)
    assert times.known
