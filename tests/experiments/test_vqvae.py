"""The VQ-VAE: known answers, and utterances that do not see what they are padded
with."""

import itertools
import math

import numpy as np
import pytest
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.corpora.unlabelled import Recording
from espnet_adastride.downsampling.adastride import alignment_matrix
from espnet_adastride.downsampling.output import length_mask, repeat_slots
from espnet_adastride.downsampling.spectral import cut_spectrum, widen_spectrum
from espnet_adastride.evaluation.vqvae import entropy, measure, perplexity
from espnet_adastride.experiments.records import FORMAT, read_record, write_record
from espnet_adastride.experiments.vqvae import format_table, plot_bits, sort_runs
from espnet_adastride.networks.log_mel import DECIBEL, LogMel
from espnet_adastride.networks.vqvae import (
    VQVAE,
    coded_positions,
    durations,
    with_coded_positions,
)
from espnet_adastride.report.listening import page
from tests.wrong_records import refusal

LENGTHS = torch.tensor([41, 30, 1])
METHODS = [*available_downsamplers(), ("strided_conv", "adastride")]


def network(method, **options):
    """A small one whose layers have seen data and whose scores are not zero."""
    torch.manual_seed(1)
    quantiser = {"codebook_dim": 8, "kmeans_init": True}
    built = VQVAE(
        6,
        [2, 2],
        method,
        width=16,
        codebook_size=8,
        quantiser_conf=quantiser,
        **options,
    )
    for name, value in built.named_parameters():
        if "score" in name:
            torch.nn.init.normal_(value)
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = None  # statistics of all steps, of three too
    x = torch.randn(2, 50, 6)
    for _ in range(3):
        built.losses(x, torch.tensor([50, 44]))
    return built.eval()


# ------------------------------------------------------------------------- upsampling


def test_upsampling_is_the_transposed_alignment_of_the_definition():
    layer = build_downsampler("adastride", 4, 2.5)
    lengths, shorter = torch.tensor([10, 7]), torch.tensor([4, 3])
    positions = torch.rand(2, 10, dtype=torch.float64).cumsum(1)
    positions = positions - positions[:, :1]
    positions *= (shorter - 1).unsqueeze(1) / positions.gather(1, lengths[:, None] - 1)
    positions = torch.minimum(positions, (shorter - 1).unsqueeze(1).double())
    z = torch.randn(2, 4, 3, dtype=torch.float64)
    z[1, 3] = torch.nan  # padding
    matrix = alignment_matrix(positions, lengths, shorter, 5.0)
    clean = z.nan_to_num()
    plain = matrix.transpose(1, 2) @ clean
    valid = torch.arange(10) < lengths[:, None]
    expected = plain / matrix.sum(1).clamp(min=1e-300).unsqueeze(2)
    for normalised, wanted in ((False, plain), (True, expected)):
        found = layer.upsample(clean, lengths, 10, positions, normalised)
        torch.testing.assert_close(found[valid], wanted[valid])
        assert (found[~valid] == 0).all()


def test_upsampling_by_hand():
    layer = build_downsampler("adastride_f", 1, 2)
    positions = torch.tensor([[0.0, 0.2, 0.4, 1.0, 2.0, 2.0]], dtype=torch.float64)
    z = torch.tensor([[[10.0], [20.0], [30.0]]])
    found = layer.upsample(z, torch.tensor([6]), 6, positions)
    assert found.flatten().tolist() == [10, 10, 10, 20, 30, 30]
    plain = layer.upsample(z, torch.tensor([6]), 6, positions, normalised=False)
    # weights within slot 0: exp(-5 d^2) over their sum; two equal ones in slot 2
    weights = [1.0, math.exp(-5 * 0.04), math.exp(-5 * 0.16)]
    expected = [10 * w / sum(weights) for w in weights] + [20, 15, 15]
    assert plain.flatten().tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="positions"):
        layer.upsample(z, torch.tensor([6]), 6)


def test_a_step_that_no_row_reaches_gets_its_nearest_frame():
    layer = build_downsampler("adastride", 1, 2, sigma_square=1000.0)
    positions = torch.tensor([[0.0, 0.3, 1.0, 1.0]], dtype=torch.float64)
    positions.requires_grad_()
    z = torch.tensor([[[3.0], [5.0]]])
    found = layer.upsample(z, torch.tensor([4]), 4, positions)
    assert found.flatten().tolist() == [3, 3, 5, 5]
    found.sum().backward()
    assert torch.isfinite(positions.grad).all()


def test_repetition_by_hand():
    z = torch.tensor([[[1.0], [2.0], [3.0]]])
    found = repeat_slots(z, torch.tensor([5]), 6, 2)
    assert found.flatten().tolist() == [1, 1, 2, 2, 3, 0]


@pytest.mark.parametrize("m", [7, 8])
def test_widening_a_spectrum_inverts_its_cut(m):
    slow = torch.arange(24, dtype=torch.float64) * 2 * math.pi / 24
    x = (1.5 + slow.cos() + (2 * slow).sin()).view(1, 24, 1)
    torch.testing.assert_close(widen_spectrum(cut_spectrum(x, m), 24), x)


@pytest.mark.parametrize("name", available_downsamplers())
def test_a_constant_stays_a_constant(name):
    layer = build_downsampler(name, 5, 2)
    if hasattr(layer, "score") and name.startswith("ada"):
        torch.nn.init.normal_(layer.score.weight)
    lengths = torch.tensor([11, 6, 1])
    out = layer(torch.randn(3, 11, 5), lengths)
    z = torch.full((*out.output.shape[:2], 2), 7.0)
    found = layer.upsample(z, lengths, 11, out.positions)
    valid = torch.arange(11) < lengths[:, None]
    torch.testing.assert_close(found[valid], torch.full_like(found[valid], 7.0))
    assert (found[~valid] == 0).all()


# ---------------------------------------------------------------------------- network


@pytest.mark.parametrize("upsampling", VQVAE.UPSAMPLING)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_alone_is_as_in_a_padded_batch(method, upsampling):
    net = network(method, upsampling=upsampling)
    x = torch.randn(3, 41, 6)
    for row, length in enumerate(LENGTHS):
        x[row, length:] = torch.nan
    with torch.no_grad():
        batch = net.encode(x, LENGTHS)
        output = net.decode(batch.quantised, batch.lengths, batch.stages)
        assert batch.tokens[0].unique().numel() > 1
        for row, length in enumerate(LENGTHS.tolist()):
            alone = net.encode(x[row : row + 1, :length], LENGTHS[row : row + 1])
            number = int(alone.lengths)
            assert number == int(batch.lengths[row])
            assert alone.tokens[0].tolist() == batch.tokens[row, :number].tolist()
            assert (batch.tokens[row, number:] == -1).all()
            own = net.decode(alone.quantised, alone.lengths, alone.stages)
            torch.testing.assert_close(
                own[0], output[row, :length], atol=1e-4, rtol=1e-4
            )
            assert (output[row, length:] == 0).all()
        # a receiver has the tokens alone
        codes = net.codes(batch.tokens)
        torch.testing.assert_close(codes, batch.quantised, atol=1e-5, rtol=1e-5)
    assert output[0].std() > 1e-3


@pytest.mark.parametrize("method", ["adastride", "strided_conv"])
def test_training_does_not_see_the_padding(method):
    x = pad_sequence([torch.randn(n, 6) for n in LENGTHS], batch_first=True)
    found = []
    for more in (0, 9):
        net = network(method).train()
        wide = torch.nn.functional.pad(x, (0, 0, 0, more), value=torch.nan)
        torch.manual_seed(3)
        loss, encoded = net.losses(wide, LENGTHS)
        (loss + encoded.commitment).backward()
        gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        code = net.quantiser.codebook.clone()
        found.append([loss, encoded.commitment, code, *gradients])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert any(g.abs().max() > 0 for g in found[0][3:])


@pytest.mark.parametrize("upsampling", VQVAE.UPSAMPLING)
def test_scores_learn_through_the_decoder(upsampling):
    net = network("adastride", upsampling=upsampling).train()
    x = torch.randn(2, 30, 6)
    encoded = net.encode(x, torch.tensor([30, 20]))
    # the encoder's own way to the scores is cut
    z = encoded.quantised.detach()
    net.decode(z, encoded.lengths, encoded.stages).square().sum().backward()
    layer = net.encoder.blocks[0].downsampler.downsampler
    weight = layer.score.parametrizations.weight.original
    assert weight.grad.abs().max() > 0


def test_wrong_words_name_the_choices():
    for options, message in (
        ({"upsampling": "transpose"}, "did you mean 'transposed'"),
        ({"quantiser_conf": {"decai": 0.9}}, "did you mean 'decay'"),
        ({"codebook_size": 0}, "codebook_size must be"),
        ({"method": "avg_pol"}, "did you mean 'avg_pool'"),
    ):
        with pytest.raises(ValueError, match=message):
            VQVAE(6, [2], **{"method": "avg_pool", **options})
    with pytest.raises(ValueError, match="hnet with exact: false .* use exact: true"):
        VQVAE(6, [2], "hnet", downsampler_conf={"exact": False})


# -------------------------------------------------------------------------- durations


def test_durations_by_hand():
    positions = torch.tensor([0.0, 0.2, 0.4, 1.0, 3.0, 9.0], dtype=torch.float64)
    counts = durations(positions, 5, 4)  # the last step is padding
    assert counts.tolist() == [3, 1, 0, 1]
    found = coded_positions(counts)
    assert found.tolist() == pytest.approx([0, 0, 1 / 3, 1, 3])
    assert durations(found, 5, 4).tolist() == counts.tolist()


def test_durations_are_all_that_adastride_f_needs():
    """Where columns sum to 1; without that, weights tell where in a slot a step is."""
    options = {"downsampler_conf": {"empty_slots": "zeros"}}
    net = network("adastride_f", upsampling="normalised", **options)
    x = torch.randn(3, 41, 6)
    with torch.no_grad():
        encoded = net.encode(x, LENGTHS)
        known = with_coded_positions(encoded.stages)
        exact = net.decode(encoded.quantised, encoded.lengths, encoded.stages)
        coded = net.decode(encoded.quantised, encoded.lengths, known)
    assert not torch.equal(known[0].positions, encoded.stages[0].positions)
    torch.testing.assert_close(coded, exact)


def test_the_decoder_learns_with_what_it_will_be_told():
    """The loss is that of the durations; its gradient still reaches the scores."""
    x = torch.randn(3, 41, 6)
    losses, gradients = {}, {}
    net = network("adastride").eval()
    assert net.told == "durations"
    for told in ("durations", "positions"):
        net.told = told
        net.zero_grad()
        loss, encoded = net.losses(x, LENGTHS)
        loss.backward()
        scores = [p.grad for name, p in net.named_parameters() if "score" in name]
        gradients[told] = max(float(grad.abs().max()) for grad in scores)
        losses[told] = loss.detach()
    known = with_coded_positions(encoded.stages)
    output = net.decoder(encoded.quantised, encoded.lengths, known)
    valid = length_mask(LENGTHS, 41)
    by_hand = (output - net.normalise(x))[valid].square().mean()
    torch.testing.assert_close(losses["durations"], by_hand.detach())
    assert abs(losses["durations"] - losses["positions"]) > 1e-6
    assert min(gradients.values()) > 0
    for stage, exact in zip(known, encoded.stages):
        # slots know nothing finer than their numbers of steps
        for row, (n, m) in enumerate(zip(exact.lengths, exact.output_lengths)):
            told = durations(stage.positions[row], int(n), int(m))
            assert torch.equal(told, durations(exact.positions[row], int(n), int(m)))
    with pytest.raises(ValueError, match="told"):
        network("adastride", told="position")


# ---------------------------------------------------------------------------- figures


def test_perplexity_and_entropy_by_hand():
    assert perplexity(torch.tensor([[1, 1], [1, -1]]), 4) == pytest.approx(1.0)
    assert perplexity(torch.tensor([0, 1, 2, 3, -1]), 4) == pytest.approx(4.0)
    # shares 3/4 and 1/4
    bits = 0.75 * math.log2(4 / 3) + 0.25 * 2
    assert perplexity(torch.tensor([5, 5, 5, 2]), 8) == pytest.approx(2**bits)
    assert entropy([5, 5, 5, 2]) == pytest.approx(bits)
    assert entropy([]) == 0.0
    assert math.isnan(perplexity(torch.tensor([-1]), 8))


@pytest.fixture
def sounds(tmp_path):
    """Two recordings of half a second and one second."""
    found = []
    for name, samples in (("a", 4000), ("b", 8000)):
        path = tmp_path / f"{name}.wav"
        wave = 0.3 * torch.randn(samples, generator=torch.Generator().manual_seed(1))
        soundfile.write(path, wave.numpy(), 8000)
        found.append(Recording(name, str(path), f"file {name}"))
    return found


def small(method):
    features = LogMel(fs=8000, n_fft=256, win_length=256, hop_length=80, n_mels=6)
    return features, network(method)


def test_bits_by_hand(sounds):
    features, net = small("avg_pool")
    found = measure(features, net, sounds)
    # 51 and 101 frames, 13 and 26 tokens in 1.5 s, 3 bits each
    assert found["tokens_per_second"] == pytest.approx(39 / 1.5)
    assert found["bits"] == pytest.approx(3 * 39 / 1.5)
    assert found["side_bits"] == 0
    expected = 26 * math.log2(found["perplexity"])
    assert found["entropy_bits"] == pytest.approx(expected)
    frames, errors = zip(
        *((u["frames"], u["error"]) for u in found["utterances"].values())
    )
    assert frames == (51, 101)
    assert found["error"] == pytest.approx(np.average(errors, weights=frames))
    assert found["error"] == found["error_exact"]
    # a decoder that always gives the mean frame
    for parameter in net.decoder.output.parameters():
        torch.nn.init.zeros_(parameter)
    net.set_statistics(torch.full((6,), -2.0), torch.ones(6))
    again = measure(features, net, sounds[:1])
    samples, _ = soundfile.read(sounds[0].path, dtype="float32")
    own, _ = features(torch.from_numpy(samples)[None], torch.tensor([4000]))
    by_hand = float((own + 2.0).abs().mean()) * DECIBEL
    assert again["error"] == pytest.approx(by_hand, rel=1e-5)


def test_side_information_by_hand(sounds):
    features, net = small("adastride_f")
    found = measure(features, net, sounds)
    told = [[], []]
    for recording, samples in zip(sounds, (4000, 8000)):
        wave, _ = soundfile.read(recording.path, dtype="float32")
        frames, n = features(torch.from_numpy(wave)[None], torch.tensor([samples]))
        with torch.no_grad():
            stages = net.encode(frames, n).stages
        for stage, own in zip(stages, told):
            nearest = stage.positions[0].round().int().tolist()
            own += [nearest.count(slot) for slot in range(int(stage.output_lengths))]
    assert len(told[0]) == 26 + 51 and len(told[1]) == 39
    each = [len(own) * entropy(own) / 1.5 for own in told]
    assert found["side_bits_per_stage"] == pytest.approx(each)
    assert found["side_bits"] == pytest.approx(sum(each)) and sum(each) > 1


def run(method, seed, errors, side=0.0, rate=8):
    utterances = {
        f"u{i}": {"frames": 100, "error": e, "group": f"text {i}"}
        for i, e in enumerate(errors)
    }
    return {
        "method": method,
        "rate": rate,
        "seed": seed,
        "codebook_size": 512,
        "seconds_of_speech": 60.0,
        "training_seconds": 120.0,
        "error": float(np.mean(errors)),
        "rms_error": 1.0,
        "error_exact": 1.0,
        "perplexity": 256.0,
        "tokens_per_second": 12.5,
        "bits": 900.0 / rate,
        "entropy_bits": 100.0,
        "side_bits": side,
        "utterances": utterances,
    }


@pytest.mark.parametrize(
    "place, value, words",
    [
        ("measured bits", None, "bits is not a number"),
        ("measured bits", 0.0, "bits is not above zero"),
        ("sets test", None, "sets.test is not a mapping"),
        ("sets test utterances", {}, "utterances is not a mapping"),
        ("sets test utterances u0", 1, "utterances.u0 is not a mapping"),
        ("sets test utterances u0 error", "x", "utterances.u0 has no number of"),
        ("sets test utterances u0 group", None, "utterances.u0.group is not a word"),
    ],
)
def test_a_record_with_a_wrong_value_is_refused(tmp_path, place, value, words):
    """Before the table computes with it."""
    figures = run("adastride", 0, np.linspace(5, 6, 20))
    told = {name: figures.pop(name) for name in ("method", "seed", "rate")}
    content = {
        "format": FORMAT,
        "task": "vqvae",
        "system": told["method"],
        **{"rate": told["rate"], "seed": told["seed"]},
        **{"configuration": {}, "learning": {}, "versions": {}},
        "timing": {"training_seconds": figures.pop("training_seconds")},
        "sets": {"test": {"utterances": figures.pop("utterances")}},
        "measured": figures,
    }
    path = tmp_path / "adastride_8x_seed0.json.gz"
    write_record(path, content)
    (found,) = sort_runs([read_record(path)])
    assert found["error"] == pytest.approx(5.5)
    figures["entropy_bits"] = 0.0  # of a collapsed codebook, which is no wrong value
    write_record(path, content)
    assert sort_runs([read_record(path)])[0]["entropy_bits"] == 0
    assert words in refusal(
        path, content, place, value, lambda path: sort_runs([read_record(path)])
    )


def test_the_table_counts_side_information_and_pairs():
    errors = np.linspace(5, 6, 20)
    runs = [run("strided_conv", s, errors) for s in (0, 1)]
    runs += [run("adastride_f", s, errors - 0.5, side=40.0) for s in (0, 1)]
    table = format_table(runs, "strided_conv", resamples=200)
    assert "| 8x | `adastride_f` | 0, 1 | 5.00 ± 0.00 |" in table
    assert "| 112 ± 0 | 40 ± 0 | 152 ± 0 | 140 ± 0 |" in table
    assert "| 8x | `adastride_f` | 0, 1 | -0.50 | [-0.50, -0.50] |" in table
    assert "better" in table and "Only" not in table
    few = [run(m, 0, errors[:6] - i) for i, m in enumerate(("strided_conv", "stack"))]
    assert "Only 6 texts or files: the interval of so few" in format_table(
        few, "strided_conv", resamples=200
    )
    # the reference has 112.5 bit/s at 8x, 225 at 4x: 152.5 is between
    runs += [run("strided_conv", 0, errors - 1.0, rate=4)]
    share = math.log2(152.5 / 112.5)
    at_equal_bits = np.mean(errors) - share
    table = format_table(runs, "strided_conv", resamples=200)
    assert f"| 152 ± 0 | 140 ± 0 | {at_equal_bits:.2f} |" in table
    alone = format_table(runs[:2], "strided_conv", resamples=200)
    assert "No rate has both `strided_conv` and another" in alone


def test_the_picture_adds_side_information_to_the_bits():
    runs = [run("strided_conv", s, [5.0 + s]) for s in (0, 1)]
    runs += [run("adastride_f", 0, [4.0], side=40.0)]
    (axes,) = plot_bits(runs, "strided_conv").axes
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["strided_conv", "adastride_f"]
    points = {}
    for line in axes.lines:
        x, y = float(line.get_xdata()[0]), float(line.get_ydata()[0])
        points.setdefault(line.get_linestyle(), set()).add((x, y))
    assert points["-"] >= {(152.5, 4.0), (112.5, 5.5)} and points[":"] == {(112.5, 4.0)}
    (bars,) = [
        c.get_segments()[0].tolist()
        for c in axes.collections
        if c.get_segments()[0][0][0] == 112.5
    ]
    assert bars == [[112.5, 5.0], [112.5, 6.0]]  # lowest and highest seed
    assert [text.get_text() for text in axes.texts] == ["8x", "8x"]


def test_no_rate_in_the_picture_covers_another():
    """Two methods with nearly the same error and bits, as in docs/bits.png."""
    runs = [run("adastride", 0, [4.12], side=136.0)]
    runs += [run("adastride_f", 0, [4.13], side=139.0)]
    runs += [run("strided_conv", 0, [5.0], rate=rate) for rate in (2, 16)]
    figure = plot_bits(runs, "strided_conv")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_the_page_escapes_and_needs_nothing_else(tmp_path):
    name = "a<b&c"
    for kind in (".wav", ".original.wav", ".vocoder.wav", ".png"):
        (tmp_path / f"{name}{kind}").write_bytes(b"x")
    text = page([run("avg_pool<script>", 0, [1.0])], [tmp_path])
    assert "a&lt;b&amp;c" in text and "<script" not in text and "a<b" not in text
    assert "://" not in text and text.count("data:audio/wav;base64,") == 3
