"""The plan of a training: what CTC needs, what is refused, what an epoch takes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_adastride.errors import UserError
from espnet_adastride.evaluation import plan
from espnet_adastride.evaluation.plan import Measured, SetLengths, StepCost
from espnet_adastride.timing.ctc import needed_frames


@pytest.mark.parametrize(
    "labels, frames",
    [([], 0), ([5], 1), ([5, 6], 2), ([5, 5], 3), ([5, 5, 5, 7], 6), ([1, 2, 1, 2], 4)],
)
def test_frames_that_ctc_needs(labels, frames):
    assert needed_frames(labels) == frames


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.integers(1, 12))
def test_torchs_ctc_loss_is_infinite_just_below_what_is_needed(labels, frames):
    loss = torch.nn.functional.ctc_loss(
        torch.zeros(frames, 1, 4).log_softmax(2),
        torch.tensor([labels]),
        torch.tensor([frames]),
        torch.tensor([len(labels)]),
        reduction="sum",
    )
    assert loss.isinf() == (frames < needed_frames(labels))


def lengths(frames, needed=None, batches=None, name="training", factor=4, **more):
    """A set of utterances a, b, c ... whose features are ``factor`` x frames."""
    keys = [chr(ord("a") + i) for i in range(len(frames))]
    return SetLengths(
        name=name,
        batches=batches or [tuple(keys)],
        samples={k: 160 * factor * n for k, n in zip(keys, frames)},
        rate=16000,
        features={k: factor * n for k, n in zip(keys, frames)},
        frames=dict(zip(keys, frames)),
        needed=dict(zip(keys, needed or [])),
        **more,
    )


def test_padding_and_rates_by_hand():
    one = lengths([10, 5, 2, 2], batches=[("a", "b"), ("c", "d")])
    # 2 x 10 and 2 x 2 frames are read, 19 of these 24 are speech
    assert one.padding() == pytest.approx(1 - 19 / 24)
    assert one.padded() == [2 * 10 * 640, 2 * 2 * 640]
    assert one.downsampling() == 4
    assert one.seconds == pytest.approx(19 * 0.04)


def test_a_batch_of_too_short_utterances_is_refused_with_the_duration_to_leave_out():
    one = lengths([9, 1, 1, 3], batches=[("a", "b"), ("c", "d")])
    with pytest.raises(UserError) as error:
        plan.refuse_what_cannot_work(one, 13, 0.1)
    # b and c have 4 frames, d 12: 0.12 s; b alone would not stop ESPnet
    assert "3 training utterances are too short for the input layer" in str(error.value)
    assert "fill 1 of 2 batches" in str(error.value)
    assert "b (4 frames), c (4 frames), d (12 frames)" in str(error.value)
    assert str(error.value).endswith("--min_wav_duration 0.12")
    plan.refuse_what_cannot_work(one, 12, 0.1)
    (line,) = plan.set_warnings(lengths([9, 9, 9, 9, 1]), 7)
    assert line.startswith("1 training utterances have fewer than 7 frames")


def test_what_ctc_cannot_align_is_refused_beyond_the_share_and_the_mend_fits():
    needed = [5, 10, 10, 8, 4, 4, 4, 4, 4, 4]
    one = lengths([10, 5, 8, 8, 8, 8, 8, 8, 8, 8], needed)
    assert one.unalignable() == ["b", "c"]  # the worst first; d just fits
    plan.refuse_what_cannot_work(one, 7, 0.2)
    with pytest.raises(UserError) as error:
        plan.refuse_what_cannot_work(one, 7, 0.1)
    message = str(error.value)
    assert "2 of 10 training utterances (20 %; 10 % may be)" in message
    assert "b (5 of 10), c (8 of 10)" in message
    # but for one utterance, c has the least room: 32 features for 10 labels
    assert "a stride of at most 3.2" in message and "--nbpe" in message
    # pieces are no option for characters
    with pytest.raises(UserError) as error:
        plan.refuse_what_cannot_work(one, 7, 0.1, token_type="char")
    message = str(error.value)
    assert "--nbpe" not in message and "fewer labels (--token_type bpe)" in message
    assert math.ceil(one.features["c"] / 3.2) >= one.needed["c"]
    assert one.largest_stride(0) == 2  # b: 20 features for 10

    valid = lengths([8, 9], [16, 4], name="validation")
    plan.refuse_what_cannot_work(valid, 7, 0.0)  # a warning in validation ...
    (line,) = plan.set_warnings(valid, 7)
    assert "silently zero for 1 validation utterances" in line and "stride of 2" in line
    with pytest.raises(UserError, match="2 of 2 validation"):  # ... but for all
        plan.refuse_what_cannot_work(
            lengths([5, 3], [10, 4], name="validation"), 7, 0.0
        )


def test_more_labels_than_features_are_mended_by_the_tokens_alone():
    one = lengths([5], [30])
    with pytest.raises(UserError, match="give tokens that make fewer labels") as e:
        plan.refuse_what_cannot_work(one, 7, 0.1)
    assert "stride" not in str(e.value)


def test_speed_and_padding_are_worth_a_warning():
    one = lengths([10, 2], [10, 1], fastest={"a": 9, "b": 2})
    sped, padding = plan.set_warnings(one, 0)
    assert "sped up on the fly, 1 training utterances" in sped
    assert "a (9 of 10)" in sped
    assert padding.startswith("40 % of what the encoder reads in training is padding")
    one = lengths([10, 2], [10, 1], fewest={"a": 8, "b": 1})
    assert "at the highest of train_strides, 1 training utterances cannot be aligned: "
    assert "a (8 of 10)" in plan.set_warnings(one, 0)[0]


def test_batch_bins():
    speech = {"a": (1000,), "b": (400,)}
    text = {"a": (3, 50), "b": (2, 50)}
    bins = plan.utterance_bins([speech, text], "numel")
    assert bins == {"a": 1150, "b": 500}
    assert plan.utterance_bins([speech, text], "length") == {"a": 1003, "b": 402}
    plan.refuse_batch_bins("training", bins, 1150)
    with pytest.raises(UserError, match=r"1 of 2 .* \(batch_bins 1149\): a \(1150\)"):
        plan.refuse_batch_bins("training", bins, 1149)
    with pytest.raises(UserError, match="batch_bins 0 gives no batches"):
        plan.refuse_batch_bins("training", bins, 0)


def test_the_vocabulary_must_stand_behind_the_lengths():
    shapes = {"a": (3, 50), "b": (2, 50)}
    assert plan.vocabulary_warning("text_shape", shapes, 50) is None
    assert "another size (50,)" in plan.vocabulary_warning("text_shape", shapes, 60)
    bare = plan.vocabulary_warning("text_shape", {"a": (3,)}, 50)
    assert bare.startswith("text_shape has no vocabulary size")


def test_an_epoch_by_the_line_through_two_steps():
    steps = [StepCost(100, 1.0, None, 1.0), StepCost(300, 2.0, None, 1.0)]
    # half a second, and a second for 200 samples
    assert plan.epoch_seconds([100, 300, 500], steps) == pytest.approx(1 + 2 + 3)
    steep = [StepCost(100, 1.0, None, 1.0), StepCost(300, 9.0, None, 1.0)]
    assert plan.epoch_seconds([100, 300], steep) == pytest.approx(10)
    one = [StepCost(100, 1.0, None, 1.0)] * 2
    assert plan.epoch_seconds([100, 300], one) == pytest.approx(4)


def test_a_part_of_a_batch_and_one_utterance_tell_the_whole():
    # 0.5 s and 1000 bytes, and a second and 10 bytes for every 100 samples
    small, part = StepCost(100, 1.5, 1010, 1.0), StepCost(300, 3.5, 1030, 1.0)
    assert plan.extrapolate(small, part, 1000) == StepCost(1000, 10.5, 1100, 0.3)
    assert plan.extrapolate(small, part, 300) == part
    assert plan.extrapolate(small, small, 400) == StepCost(400, 6.0, None, 0.25)
    assert plan.extrapolate(small, small, 100) == small
    unknown = plan.extrapolate(small, part._replace(peak=None), 1000)
    assert unknown.peak is None and unknown.seconds == 10.5


def test_more_memory_than_there_is_is_warned_of():
    steps = [StepCost(1, 1.0, 2**30, 1.0), StepCost(2, 2.0, 3 * 2**30, 1.0)]
    assert plan.memory_warning(Measured(steps, "x", 3 * 2**30)) is None
    assert plan.memory_warning(Measured(steps, "x")) is None
    line = plan.memory_warning(Measured(steps, "x", 2 * 2**30))
    assert line.startswith("the largest batch needs about 3.00 GiB and there are 2.00")
    assert "batch_bins" in line
    rough = [step._replace(measured=0.02) for step in steps]
    assert plan.memory_warning(Measured(rough, "x", 2 * 2**30)) is None


def test_fewer_batches_than_accum_grad_are_no_training():
    plan.refuse_no_update(4, 4)
    with pytest.raises(UserError) as error:
        plan.refuse_no_update(3, 4)
    assert str(error.value).startswith(
        "an epoch has 3 batches and accum_grad is 4: not one update an epoch"
    )
    assert "set accum_grad to at most 3, or make smaller batches" in str(error.value)
