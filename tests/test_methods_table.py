"""The table of all methods: what it measures is right where it can be known."""

import math

import numpy
import pytest
import soundfile
import torch

import methods
from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import Downsampler, DownsamplingOutput


class Slicing(Downsampler):
    """Every stride-th step: what all filters before a stride are there to better."""

    integer_stride = True

    def downsample(self, x, lengths, output_lengths):
        return DownsamplingOutput(x[:, :: self.stride], output_lengths)

    def frame_shift(self):
        return (1 - self.stride) / 2


def gains_of(layer):
    frequencies = methods.tone_frequencies()
    return frequencies.double(), methods.response(layer, frequencies)


def noise(utterances, features=4):
    return [torch.randn(300 + 7 * k, features) for k in range(utterances)]


def test_a_tone_that_is_sliced_leaks_all_its_energy():
    frequencies, gains = gains_of(Slicing(9, 2))
    torch.testing.assert_close(gains, torch.ones_like(gains))
    assert methods.aliasing(gains, frequencies, 2) == pytest.approx((0, 0, 0), abs=1e-9)


@pytest.mark.parametrize("stride", [2, 3])
def test_a_mean_leaks_by_its_dirichlet_kernel(stride):
    f, gains = gains_of(build_downsampler("avg_pool", 9, stride))
    kernel = (math.pi * f * stride).sin() / (stride * (math.pi * f).sin())
    torch.testing.assert_close(gains, kernel.square())
    leak = methods.aliasing(gains, f, stride)
    first = kernel[f > 0.5 / stride][0].square()
    assert leak.worst == pytest.approx(10 * math.log10(first))
    assert leak.mean < leak.worst < leak.below < 0


def test_a_binomial_filter_leaks_by_its_response():
    f, gains = gains_of(build_downsampler("blur_pool", 9, 2))
    torch.testing.assert_close(gains, (math.pi * f).cos() ** 4)


def test_a_cut_spectrum_leaks_nothing_and_keeps_what_is_below():
    f, gains = gains_of(build_downsampler("spectral_pool", 9, 2))
    leak = methods.aliasing(gains, f, 2)
    assert leak.worst < -60 and leak.mean < -60
    assert leak.below == pytest.approx(0, abs=1e-6)


def test_a_maximum_of_two_turns_into_distortion_what_a_mean_takes_away():
    """max(a, b) = (a + b) / 2 + |a - b| / 2, with powers cos^2(pi f) + sin^2(pi f)."""
    _, gains = gains_of(build_downsampler("max_pool", 64, 2))
    torch.testing.assert_close(gains, torch.ones_like(gains), atol=0.01, rtol=0)


def test_scores_at_zero_and_scores_that_follow():
    rows = methods.rows_of(["adastride", "spectral_pool"])
    assert [str(row) for row in rows] == [
        "adastride",
        "adastride, scores that follow speech",
        "spectral_pool",
        "avg_pool",
    ]
    even, follows = (methods.build(row, 9, 2) for row in rows[:2])
    track = 2 * torch.randn(methods.TONE_STEPS).cumsum(0).mul(0.05).sin()
    frequencies = methods.tone_frequencies()[30:32]
    ours, theirs = (methods.response(x, frequencies) for x in (even, follows))
    torch.testing.assert_close(ours, theirs)  # without a track their scores are zero
    assert not torch.allclose(theirs, methods.response(follows, frequencies, track))


def test_multiply_accumulates_by_hand():
    size, x, lengths = 32, torch.randn(2, 64, 32), torch.tensor([64, 50])

    def count(name, stride):
        layer = build_downsampler(name, size, stride)
        return methods.operations_per_frame(layer, x, lengths)

    def about(number):  # what is spent on lengths is one number an utterance
        return pytest.approx(number, abs=0.5)

    assert count("avg_pool", 4) == about(4 * size + size)  # additions, a division
    assert count("max_pool", 4) == about(4 * size)
    assert count("softmax_pool", 4) == about(2 * 4 * size + 3 * 4)
    assert count("strided_conv", 4) == about(3 * size**2)
    assert count("stack", 4) == about(4 * size**2)
    # three taps and their sum, a division; the mask's are one feature's
    assert 6 * size <= count("blur_pool", 2) <= 8 * size + 8
    # scores, and every frame in one slot's sum; what is one number a step is little
    fast = count("adastride_f", 2)
    assert 2 * 2 * size <= fast <= 2 * 2 * size + 2 * 40
    transforms = 1.25 * (4 * math.log2(64) + math.log2(16)) * size
    assert count("spectral_pool", 4) == pytest.approx(transforms, rel=0.3)


@pytest.mark.parametrize("name", ["avg_pool", "blur_pool", "adastride", "adastride_f"])
def test_constants_are_rebuilt(name):
    constants = [torch.randn(1, 4).expand(60 + k, 4) for k in range(40)]
    kept = methods.information(build_downsampler(name, 4, 4), constants, constants, 4)
    assert kept == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("name", ["slicing", "avg_pool", "spectral_pool", "stack"])
def test_of_noise_is_kept_what_the_rate_keeps(name, stride):
    """s frames of noise in D numbers: 1 / s of the variance, by any linear method."""
    layer = (
        Slicing(4, stride) if name == "slicing" else build_downsampler(name, 4, stride)
    )
    # what spectral_pool keeps is spread over more output frames than are looked at
    least = 0.19 if name == "spectral_pool" and stride > 1 else 1 / stride - 0.03
    kept = methods.information(layer, noise(30), noise(10), 4)
    assert least < kept < 1 / stride + 0.01


def test_a_frame_is_rebuilt_between_its_neighbours_whatever_its_place():
    z, places = torch.randn(50, 3), torch.rand(4000).mul(49).sort().values.double()
    regressors, fractions = methods.neighbours(z, places, 2)
    assert regressors.shape == (4000, 2 * 3 + 1)
    low = places.floor().long()
    torch.testing.assert_close(regressors[:, :3], z[low])
    torch.testing.assert_close(regressors[:, 3:6], z[(low + 1).clamp(max=49)])
    share = fractions.unsqueeze(1)
    frames = (1 - share) * z[low] + share * z[(low + 1).clamp(max=49)]
    rebuilding = methods.Rebuilding(knots=3).fit(regressors, fractions, frames)
    rebuilt = rebuilding.rebuild(regressors, fractions)
    torch.testing.assert_close(rebuilt, frames, atol=0.01, rtol=0)


def test_places_are_the_windows_centres():
    x, lengths = torch.zeros(1, 8, 2), torch.tensor([8])

    def places(layer):
        return methods.frame_places(layer, layer(x, lengths), 8)

    average = places(build_downsampler("avg_pool", 2, 4))
    assert average[[1, 2]].tolist() == [-0.125, 0.125]
    assert places(build_downsampler("spectral_pool", 2, 4))[[0, 4]].tolist() == [0, 1]
    assert places(Slicing(2, 4))[[0, 4]].tolist() == [0, 1]
    adaptive = build_downsampler("adastride", 2, 4)
    assert places(adaptive)[[0, 7]].tolist() == pytest.approx([0, 1])


def test_scores_follow_the_change_where_a_frame_tells_it():
    loud = [torch.randn(400).cumsum(0).mul(0.1).sin() for _ in range(4)]
    utterances = [
        torch.cat([e[:, None], 0.1 * (2 * e).exp()[:, None] * torch.randn(400, 6)], 1)
        for e in loud
    ]
    weight = methods.fit_scores(utterances)
    assert weight[0] > 0.5 and weight[1:].abs().max() < 0.3
    track = methods.score_track(utterances[:1], weight, 900)
    torch.testing.assert_close(track[:400], utterances[0] @ weight)
    torch.testing.assert_close(track[800:], track[:100])


def test_the_table(tmp_path, capsys):
    for number in range(6):
        wave = 0.1 * numpy.random.default_rng(number).standard_normal(16000 + number)
        soundfile.write(tmp_path / f"{number}.wav", wave, 8000)
    methods.main(
        "--methods adastride strided_conv soft_pool --size 32 --steps 200 --rounds 1 "
        f"--batch_size 2 --rates 4 --speech {tmp_path} --output_dir {tmp_path}".split()
    )
    text = (tmp_path / "methods.md").read_text()
    assert text in capsys.readouterr().out
    assert f"6 utterances, 0.2 min, recorded ({tmp_path.name})" in text
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = {row[0]: row[1:] for row in cells if len(row) == 11}
    assert list(rows)[0] == "method" and list(rows)[2:] == [
        "`adastride`",
        "`adastride`, scores that follow speech",
        "`strided_conv`",
        "`soft_pool`",
        "`avg_pool`",
    ]
    nothing, window = Downsampler.adapts_to, "values in the window"
    assert rows["`avg_pool`"][:6] == ["no", nothing, "0", "96", "1.00", "1.00"]
    assert rows["`strided_conv`"][:4] == ["yes", nothing, "3,104", "3,072"]
    assert rows["`soft_pool`"][:3] == ["no", window, "0"]
    assert rows["`adastride`"][2] == "32"
    (apart,) = [row for row in cells if len(row) == 5 and row[1] == "4"]
    assert apart[0] == "`adastride`" and apart[2].count(" to ") == 1
    assert apart[3] == rows["`adastride`, scores that follow speech"][-1]
    assert (tmp_path / "methods.png").stat().st_size > 5000


def test_without_a_folder_speech_is_synthesised(tmp_path):
    pytest.importorskip("espeakng_loader")
    args = methods.get_parser().parse_args(["--minutes", "0.2"])
    assert args.methods == available_downsamplers()
    features, source = methods.speech_features(args)
    assert "synthesised (mini_espeak), not recorded" in source
    assert len(features) >= 3 and features[0].size(1) == 80
    fit, held_out = methods.split(features)
    assert len(held_out) == len(features) // 3
    assert len(fit) + len(held_out) == len(features)
    assert torch.cat(fit).mean(dim=0).abs().max() < 1e-4
    args.speech = tmp_path
    with pytest.raises(SystemExit, match="has 0 wav or flac files"):
        methods.speech_features(args)
