"""Behind each of ESPnet's frontends: when frames are, how many, and what is refused.

Each with the real package where it is installed, and with a stand-in that follows the
package's documentation everywhere (``frontend_models.py``).
"""

import numpy as np
import pytest
import soundfile
import torch

from espnet_adastride.audio import AudioError
from espnet_adastride.bin import align, plan_training, plot
from espnet_adastride.bin import transcribe as transcribe_command
from espnet_adastride.plugin import alignment, espnet, trainer
from espnet_adastride.plugin.errors import ConfigurationError, UnknownTimesError
from espnet_adastride.plugin.espnet import TooShortUttError, asr_task
from espnet_adastride.plugin.frontends import frontend_frames, why_unknown
from espnet_adastride.plugin.planning import ModelLengths
from espnet_adastride.recipe.errors import RecipeError
from espnet_adastride.timing.convolutions import (
    Convolution,
    FrameRule,
    shortest,
    stack,
    stacked_length,
)
from espnet_adastride.transcribe import Transcriber
from tests.plugin.frontend_models import (
    CASES,
    HAS_HUGGINGFACE,
    KERNELS,
    STRIDES,
    SIZE,
    build,
    linear,
    stand_in_s3prl,
    stand_in_transformers,
)
from tests.plugin.test_planning import Experiment
from tests.tiny_models import make_experiment

WAVE2VEC = list(map(Convolution, KERNELS, STRIDES))


@pytest.fixture(params=CASES)
def options(request, tmp_path, monkeypatch):
    """The options of a training with one of the frontends."""
    return CASES[request.param](tmp_path / "upstream", monkeypatch)


def noise(samples, seed=0):
    """Steady, so that Whisper's floor below the loudest place is not reached."""
    wave = np.random.default_rng(seed).normal(0, 0.1, samples)
    return wave.astype(np.float32)


def with_click(wave, time):
    loud = wave.copy()
    loud[time - 20 : time + 20] += 0.9
    return loud


# ---------------------------------------------------------------- the arithmetic
def test_convolutions_by_hand():
    # two of kernel 3: the first centred on steps 1, 3, 5 ...; the second over three of
    # its frames: on 3, 7, 11 ... and over 7 steps
    two = [Convolution(3, 2), Convolution(3, 2)]
    assert stack(two) == FrameRule(4, 3.0, 7)
    assert [stacked_length(n, two) for n in (2, 6, 7, 10, 11)] == [0, 0, 1, 1, 2]
    assert shortest(two) == 7 and shortest(two, 3) == 15
    # padded by one: centred on their number times the stride
    assert stack([Convolution(3, 2, 1)]) == FrameRule(2, 0.0, 3)
    assert Convolution(3, 2, 1).length(1) == 1 and shortest([Convolution(3, 2, 1)]) == 1
    # wav2vec 2.0: 25 ms every 20 ms
    assert stack(WAVE2VEC) == FrameRule(320, 199.5, 400)


@pytest.mark.parametrize("frames", [1, 2, 10, 49])
def test_shortest_is_the_shortest(frames):
    least = shortest(WAVE2VEC, frames)
    assert stacked_length(least, WAVE2VEC) == frames
    assert stacked_length(least - 1, WAVE2VEC) == frames - 1


@pytest.mark.parametrize("padding", [0, 1])
def test_the_rule_is_where_convolutions_read(padding):
    """Against autograd, in float64 with ones: the steps that reach a frame."""
    layers = [Convolution(5, 3, padding), Convolution(2, 2), Convolution(3, 1, padding)]
    rule, steps = stack(layers), 97
    x = torch.ones(1, 1, steps, dtype=torch.float64, requires_grad=True)
    y = x
    for kernel, stride, pad in layers:
        weight = torch.ones(1, 1, kernel, dtype=torch.float64)
        y = torch.nn.functional.conv1d(y, weight, stride=stride, padding=pad)
    assert y.size(2) == stacked_length(steps, layers)
    for frame in range(3, y.size(2) - 3):
        (grad,) = torch.autograd.grad(y[0, 0, frame], x, retain_graph=True)
        read = grad[0, 0].nonzero().flatten()
        first, last = int(read[0]), int(read[-1])
        assert last - first + 1 == rule.field
        assert (first + last) / 2 == rule.centre + frame * rule.hop


# ---------------------------------------------------------------- the frontends
def test_a_click_is_where_the_rule_says(options):
    """The frame that a click changes most is within a frame of the click's time."""
    frontend = build(options)
    rule = frontend_frames(frontend).rule
    wave, errors = noise(32000), []
    for click in (8000, 12345, 16100, 20480, 25550):
        with torch.no_grad():
            found = [
                frontend(torch.from_numpy(one)[None], torch.tensor([32000]))[0]
                for one in (wave, with_click(wave, click))
            ]
        change = (found[0] - found[1]).flatten(2).abs().sum(dim=2)[0]
        if options["frontend"] == "sliding_window":  # all windows that hold it change
            best = torch.nonzero(change > 0.9 * change.max()).double().mean()
        else:  # by the most: normalisation over time reaches all frames a little
            best = change.argmax()
        errors.append((rule.centre + float(best) * rule.hop - click) / rule.hop)
    assert np.abs(errors).max() < 1
    # nor are they all too early or too late
    assert abs(np.mean(errors)) < 0.5


def test_lengths_are_the_frontends(options):
    """Down to the shortest that it takes; one sample less, and it stops."""
    frontend = build(options)
    known = frontend_frames(frontend)
    rng = np.random.default_rng(1)
    lengths = [known.least, known.least + 1, *rng.integers(known.least, 20000, 8)]
    lengths += [3200, 3201, 16000, 16079, 16080, 16081, 16159, 16160, 16161]
    for samples in (n for n in lengths if n >= known.least):
        with torch.no_grad():
            frames, counts = frontend(
                torch.from_numpy(noise(int(samples)))[None],
                torch.tensor([int(samples)]),
            )
        assert known.length(int(samples)) == int(counts[0]) == frames.size(1)
    if known.least > 1 and options["frontend_conf"].get("model", "bert")[-4:] != "bert":
        with pytest.raises((RuntimeError, ValueError, AssertionError)):
            frontend(
                torch.from_numpy(noise(known.least - 1))[None],
                torch.tensor([known.least - 1]),
            )


def test_in_training_a_batch_must_be_longer(options):
    """transformers masks ten frames at once, and stops at batches of fewer."""
    frontend = build(options).train()
    known = frontend_frames(frontend)
    if known.least_in_training == 1:
        assert options["frontend"] != "huggingface"
        return
    assert stacked_length(known.needed(True), WAVE2VEC) == 10 or known.least == 560
    for samples, works in ((known.needed(True), True), (known.needed(True) - 1, False)):
        batch = torch.from_numpy(noise(samples))[None], torch.tensor([samples])
        if works:
            frontend(*batch)
            continue
        with pytest.raises(ValueError, match="mask_length"):
            frontend(*batch)


@pytest.mark.parametrize("case", ["wavlm", "hubert", "s3prl", "wav2vec_cnn"])
def test_the_field_is_that_of_the_real_convolutions(case, tmp_path, monkeypatch):
    """The samples from the first to the last that reach a frame, by autograd."""
    frontend = build(CASES[case](tmp_path, monkeypatch))
    known = frontend_frames(frontend)
    convolutions = [m for m in frontend.modules() if isinstance(m, torch.nn.Conv1d)]
    convolutions = [m for m in convolutions if m.groups == 1][: len(KERNELS)]
    x = torch.ones(1, 1, 4000, requires_grad=True)
    y = x
    for one in convolutions:
        one.weight.data.abs_().add_(0.1)
        y = one(y) / one.weight[0].numel()
    (grad,) = torch.autograd.grad(y[0, :, 5].sum(), x)
    read = grad[0, 0].nonzero().flatten()
    first, last = int(read[0]), int(read[-1])
    assert last - first + 1 == known.rule.field
    assert (first + last) / 2 == known.rule.centre + 5 * known.rule.hop
