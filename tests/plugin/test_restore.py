"""A restored rate: lengths, masks, residual, intermediate CTC, times, refusals."""

import copy

import numpy as np
import pytest
import torch
from espnet2.asr.ctc import CTC

from espnet_adastride.downsampling import available_downsamplers, build_downsampler
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.experiments.definition import ROOT, read_experiment
from espnet_adastride.networks.macs import macs_by_module
from espnet_adastride.plugin.encoders import (
    ConformerEncoder,
    MultiConvConformerEncoder,
    TransformerEncoder,
)
from espnet_adastride.plugin.frame_times import encoder_boundaries, frame_times
from espnet_adastride.plugin.later_stages import LaterStage, give_back
from espnet_adastride.plugin.model import input_layer, set_stride
from espnet_adastride.plugin.strides import stage_strides
from tests.plugin.experiment_models import model_of_run
from tests.plugin.releases import NEWER
from tests.plugin.test_later_stages import ENCODERS, batch
from tests.plugin.test_model import batch as speech
from tests.plugin.test_model import build

RESTORED = {"stride": [2, 3], "after_blocks": [0, 1], "restore": True}


def encoder(kind=ConformerEncoder, method="adastride", blocks=3, encoder=None, **conf):
    torch.manual_seed(0)
    conf = {"channels": 8, **RESTORED, **conf}
    options = {"output_size": 16, "attention_heads": 2, "num_blocks": blocks}
    options.update(encoder or {})
    if kind in (ConformerEncoder, MultiConvConformerEncoder):
        options["rel_pos_type"] = "latest"
    if kind is ConformerEncoder:
        options["cnn_module_kernel"] = 3
    if kind is MultiConvConformerEncoder:
        options.update(multicgmlp_kernel_sizes="3,5", multicgmlp_merge_conv_kernel=3)
        options["linear_units"] = 16
    return kind(40, input_layer=method, input_layer_conf=conf, **options).eval()


def perturb(model):
    """Let nothing be where it starts: strides, and what counts of both parts."""
    torch.manual_seed(4)
    with torch.no_grad():
        for stage in model.embed.stages():
            if hasattr(stage, "score"):
                stage.score.weight.normal_()
        for stage in model.embed.later:
            stage.bypass.normal_(std=0.3)
    return model


def widths(model):
    """Return a list that fills with every block's input: width, and valid frames."""
    seen = []

    def note(module, inputs):
        x = inputs[0][0] if isinstance(inputs[0], tuple) else inputs[0]
        seen.append((x.size(1), inputs[1].sum(dim=2).flatten().tolist()))

    for block in model.encoders:
        block.register_forward_pre_hook(note)
    return seen


def outputs(model, blocks):
    """Return a list that fills with what these blocks give, whatever hooks follow."""
    found = []
    for number in blocks:
        hooks = model.encoders[number - 1]._forward_hooks
        given = model.encoders[number - 1].register_forward_hook(
            lambda m, i, o: found.append(o[0][0] if isinstance(o[0], tuple) else o[0])
        )
        hooks.move_to_end(given.id, last=False)
    return found


# ------------------------------------------------------------------ frames and lengths
@pytest.mark.parametrize("kind", [*ENCODERS, MultiConvConformerEncoder])
@pytest.mark.parametrize("method", ["adastride", "avg_pool", "strided_conv"])
def test_blocks_between_work_at_the_low_rate(kind, method):
    model = encoder(kind, method)
    seen = widths(model)
    x, lengths = batch()
    output, frames, _ = model(x, lengths)
    assert seen == [(35, [35, 21]), (12, [12, 7]), (12, [12, 7])]
    assert output.shape == (2, 35, 16) and frames.tolist() == [35, 21]
    assert model.embed.output_lengths(lengths).tolist() == [35, 21]
    assert model.embed.block_strides(3) == [2, 6, 6]


@pytest.mark.parametrize("kind", [*ENCODERS, MultiConvConformerEncoder])
def test_alone_is_as_in_a_batch(kind):
    if kind is not TransformerEncoder and not NEWER:
        pytest.skip("convolutions in 202511's blocks read the padding, in any model")
    alone_as_in_a_batch(encoder(kind))


def alone_as_in_a_batch(model):
    perturb(model)
    x, lengths = batch()
    with torch.no_grad():
        both, frames, _ = model(x, lengths)
        assert both.size(1) == 35 and frames.tolist() == [35, 21]
        alone = model(x[1:, :41], lengths[1:])[0]
    torch.testing.assert_close(both[1, :21], alone[0], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("method", available_downsamplers())
def test_every_method_gives_its_rate_back(method):
    stride = [2, 4] if method == "lift_pool" else [2, 3]
    word = ["strided_conv", method]
    model = build(
        "conformer",
        "adastride",
        input_layer_conf={**RESTORED, "stride": stride, "method": word},
    )
    loss, stats, _ = model(**speech())
    loss.backward()
    assert loss.isfinite()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing  # an unused parameter stops distributed training
    assert float(stats["bypass_2"]) == 0.5
    alone_as_in_a_batch(encoder(TransformerEncoder, method, stride=stride))


def test_average_by_hand():
    model = perturb(encoder(method="avg_pool"))
    inside = outputs(model, [1, 3])
    x, lengths = batch()
    with torch.no_grad():
        output = model(x[1:, :41], lengths[1:])[0]
    before, low = inside  # 21 frames, and 7 that stand for three each
    share = 0.5 + model.embed.later[0].bypass
    expected = before + share * (low.repeat_interleave(3, dim=1) - before)
    torch.testing.assert_close(output, model.after_norm(expected))


def test_a_share_of_nothing_is_the_block_before():
    """s = 0: what the low rate makes is left out, whatever it is."""
    model = encoder()
    with torch.no_grad():
        model.embed.later[0].bypass.fill_(-0.5)
    inside = outputs(model, [1, 3])
    x, lengths = batch()
    with torch.no_grad():
        output = model(x, lengths)[0]
    torch.testing.assert_close(output, model.after_norm(inside[0]))


def test_two_stages_are_given_back_in_turn():
    model = perturb(encoder(stride=[2, 2, 2], after_blocks=[0, 1, 2], blocks=4))
    seen, inside = widths(model), outputs(model, [1, 2, 4])
    x, lengths = batch()
    with torch.no_grad():
        output, frames, _ = model(x, lengths)
    assert [width for width, _ in seen] == [35, 18, 9, 9]
    assert frames.tolist() == [35, 21] and output.size(1) == 35
    trace = model.embed.take_trace()
    first, second = model.embed.later
    high, middle, low = inside
    up = second.downsampler.upsample(
        low, torch.tensor([18, 11]), 18, trace[2].positions
    )
    middle = middle + (0.5 + second.bypass) * (up - middle)
    up = first.downsampler.upsample(
        middle, torch.tensor([35, 21]), 35, trace[1].positions
    )
    expected = high + (0.5 + first.bypass) * (up - high)
    torch.testing.assert_close(output, model.after_norm(expected))


@pytest.mark.parametrize("kind", ENCODERS)
def test_blocks_behind_work_at_the_rate_before(kind):
    model = encoder(kind, restore=2)
    seen = widths(model)
    x, lengths = batch()
    output, frames, _ = model(x, lengths)
    assert [width for width, _ in seen] == [35, 12, 35]
    assert frames.tolist() == [35, 21] and output.size(1) == 35
    assert model.embed.block_strides(3) == [2, 6, 2]


def test_gradients_reach_the_scores_through_both_ways():
    """The alignment shortens and, transposed, lengthens: both move the strides."""
    grads = []
    for detached in (False, True):
        model = perturb(encoder().double())
        stage = model.embed.later[0].downsampler
        upsample = stage.upsample
        if detached:
            stage.upsample = lambda z, n, t, p: upsample(z, n, t, p.detach())
        x, lengths = batch()
        torch.manual_seed(1)
        output = model(x.double(), lengths)[0]
        (output * torch.randn_like(output)).sum().backward()
        grads.append(stage.score.weight.grad)
    assert grads[0].abs().max() > 1e-6
    assert (grads[0] - grads[1]).abs().max() > 1e-6


def test_gradcheck_of_what_is_given_back():
    """Of the frames, the bypass and the scores, with what a block might do between."""
    torch.manual_seed(2)
    downsampler = build_downsampler("adastride", 4, 3).double()
    stage = LaterStage(1, downsampler, restore=True).double()
    mask = (torch.arange(9) < torch.tensor([[9], [6]])).unsqueeze(1)

    class Between(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stage = stage

        def forward(self, x):
            z, shorter = self.stage._shorten(None, None, (x, mask))
            return give_back(z.tanh(), [], shorter)[0]

    module = Between()
    names = ["stage.bypass", "stage.downsampler.score.weight"]

    def function(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values)), (x,))

    x = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    values = [torch.randn(4).double(), torch.randn(1, 4).double()]
    values = [value.requires_grad_() for value in values]
    assert torch.autograd.gradcheck(function, (x, *values), atol=1e-6)


def test_state_is_that_of_a_model_without_and_the_bypass():
    plain = encoder(restore=False)
    model = encoder()
    more = {"embed.later.0.bypass"}
    assert model.state_dict().keys() == plain.state_dict().keys() | more
    assert model.embed.later[0].bypass.shape == (16,)
    result = model.load_state_dict(plain.state_dict(), strict=False)
    assert set(result.missing_keys) == more and not result.unexpected_keys


def test_a_copy_gives_back_what_its_own_stage_took():
    model = encoder(blocks=2)
    twin = copy.deepcopy(model)
    perturb(model)
    x, lengths = batch()
    with torch.no_grad():
        torch.testing.assert_close(
            twin(x, lengths)[0], encoder(blocks=2)(x, lengths)[0]
        )
    assert model.embed.take_trace() == ()


def test_nothing_is_held_when_the_forward_is_over():
    model = encoder(encoder={"interctc_layer_idx": [2]})
    model(*batch())
    assert model.embed.later.lowest is None


# ------------------------------------------------------------------ intermediate CTC
INTERMEDIATE = [(1, [35]), (2, [12]), (3, [35])]


@pytest.mark.parametrize("kind", [k for k in ENCODERS if k.__name__[0] != "B"])
@pytest.mark.parametrize("conditioned", [False, True])
def test_intermediate_frames_are_as_many_as_the_last(kind, conditioned):
    """Behind block 2 the low rate's, lengthened; around it, those that are there."""
    model = encoder(
        kind,
        "avg_pool",
        blocks=4,
        restore=3,
        encoder={
            "interctc_layer_idx": [1, 2, 3],
            "interctc_use_conditioning": conditioned,
        },
    )
    ctc = None
    if conditioned:
        model.conditioning_layer = torch.nn.Linear(5, 16)
        ctc = CTC(odim=5, encoder_output_size=16).eval()
    seen, inside = widths(model), outputs(model, [1, 2])
    x, lengths = batch()
    with torch.no_grad():
        (output, inner), frames, _ = model(x, lengths, ctc=ctc)
        early, low = inside
        normed = getattr(model, "normalize_before", False)
        low = model.after_norm(low) if normed else low
    assert output.size(1) == 35 and frames.tolist() == [35, 21]
    assert [number for number, _ in inner] == [1, 2, 3]
    assert [one.size(1) for _, one in inner] == [35, 35, 35]
    assert [width for width, _ in seen] == [35, 12, 12, 35]
    expected = low[0].repeat_interleave(3, dim=0)[:35]
    torch.testing.assert_close(inner[1][1][0], expected)


def test_between_the_stages_each_block_is_lengthened_by_what_came_before_it():
    model = encoder(
        method="avg_pool",
        stride=[2, 2, 3],
        after_blocks=[0, 1, 3],
        blocks=5,
        encoder={"interctc_layer_idx": [2, 3, 4]},
    )
    inside = outputs(model, [2, 4])
    x, lengths = batch()
    with torch.no_grad():
        (_, inner), frames, _ = model(x, lengths)
        two, four = (model.after_norm(one)[0] for one in inside)
    assert frames.tolist() == [35, 21]
    assert [one.size(1) for _, one in inner] == [35, 35, 35]
    torch.testing.assert_close(inner[0][1][0], two.repeat_interleave(2, 0)[:35])
    expected = four.repeat_interleave(3, 0)[:18].repeat_interleave(2, 0)[:35]
    torch.testing.assert_close(inner[2][1][0], expected)
    # block 3's own output is shortened before the intermediate CTC reads it
    assert inner[1][1][0, :6].unique(dim=0).size(0) == 1


def test_trains_with_intermediate_ctc_and_conditioning():
    model = build(
        "conformer",
        "adastride",
        model=dict(interctc_weight=0.3),
        interctc_layer_idx=[1],
        interctc_use_conditioning=True,
        input_layer_conf=RESTORED,
    )
    data = speech()
    loss, stats, _ = model(**data)
    loss.backward()
    assert loss.isfinite() and stats["loss_interctc_layer1"].isfinite()
    # block 1 is followed by the stage: its frames are the low rate's
    (_, inner), lengths = model.eval().encode(data["speech"], data["speech_lengths"])
    (number, frames), = inner  # fmt: skip
    with torch.no_grad():
        expected = model.ctc(
            frames, lengths, data["text"].clamp(min=0), data["text_lengths"]
        )
        found = model(**data)[1]["loss_interctc_layer1"]
    torch.testing.assert_close(found.squeeze(), expected, atol=1e-5, rtol=1e-5)
    assert number == 1 and frames.size(1) == int(lengths.max()) == 51


def test_all_hidden_states_are_the_blocks_own():
    model = encoder()
    (_, hidden), _, _ = model(*batch(), return_all_hs=True)
    assert [h.size(1) for h in hidden] == [12, 12, 35]


# ------------------------------------------------------------------ other rates
def test_another_rate_is_the_middles_alone():
    model = build(input_layer_conf=RESTORED).eval()
    data = speech()
    layer = input_layer(model)
    with torch.no_grad():
        before, lengths = model.encode(data["speech"], data["speech_lengths"])
        set_stride(model, None, 11)
        assert layer.current_strides() == [2, 5.5] and layer.output_strides() == [2]
        between, same = model.encode(data["speech"], data["speech_lengths"])
        assert layer.take_trace()[1].output_lengths.tolist() == [10, 6]
        set_stride(model, None, 6)
        after, _ = model.encode(data["speech"], data["speech_lengths"])
    assert lengths.tolist() == same.tolist() == [51, 29]
    assert torch.equal(before, after) and not torch.equal(before, between)
    with pytest.raises(ConfigurationError, match="make 2 alone"):
        set_stride(model, None, 1.5)


def test_a_tied_middle_refuses():
    conf = {**RESTORED, "method": ["adastride", "avg_pool"]}
    model = build(input_layer_conf=conf)
    with pytest.raises(ConfigurationError, match=r"\(avg_pool\) have fixed") as caught:
        set_stride(model, None, 12)
    assert "\n" not in str(caught.value)


def test_trains_at_rates_that_are_drawn():
    model = build(input_layer_conf={**RESTORED, "train_strides": [4, 16]}).train()
    drawn, data = set(), speech()
    for _ in range(4):
        loss, stats, _ = model(**data)
        loss.backward()
        first, second = input_layer(model).current_strides()
        assert first == 2 and 2 <= second <= 8
        drawn.add(second)
    assert len(drawn) == 4


def test_a_whole_stride_is_split_into_the_stages():
    assert stage_strides(16, 2) == [2, 8] and stage_strides(12, 2) == [2, 6]
    assert stage_strides(8, 3) == stage_strides(8, 4) == [2, 2, 2]
    assert stage_strides([2, 2, 2], 2) == [2, 2, 2] and stage_strides(8, 1) == [8]
    model = encoder(stride=16)
    assert model.embed.current_strides() == [2, 8]


# ------------------------------------------------------------------ times
def test_times_follow_the_rate_before_the_stage():
    model = perturb(encoder(method="adastride", stride=[2, 4])).double()
    x, lengths = batch()
    with torch.no_grad():
        model(x[:1].double(), lengths[:1])
    layer, trace = model.embed, model.embed.take_trace()
    kept, _ = encoder_boundaries(layer, trace, 70)
    low, windows = encoder_boundaries(layer, trace, 70, lowest=True)
    assert len(kept) == 36 and len(low) == len(windows) == 10
    # the trunk's stage adapts, too: its places stay, and the low ones are among them
    assert np.ptp(np.diff(kept)) > 0.1
    model.embed.later.restore = False
    same, _ = encoder_boundaries(layer, trace, 70)
    np.testing.assert_array_equal(low, same)


def test_restored_frames_of_a_uniform_trunk_are_evenly_spread():
    conf = {**RESTORED, "method": ["avg_pool", "adastride"]}
    model = build(input_layer_conf=conf).eval()
    torch.nn.init.normal_(input_layer(model).later[0].downsampler.score.weight)
    with torch.no_grad():
        model.encode(speech()["speech"][:1], torch.tensor([16000]))
    trace = input_layer(model).take_trace()
    times = frame_times(model, trace, 16000, 16000, 51)
    # pairs of frames every 10 ms, the first centred at 0: cut every 20 ms
    np.testing.assert_allclose(times.boundaries[1:-1], 0.015 + 0.02 * np.arange(50))
    low = times.of_strides()
    assert low is times.lowest and len(low.boundaries) == 18
    inner = np.diff(low.boundaries)[1:-1]
    assert np.ptp(inner) > 0.01 and low.boundaries[-1] == 1.0
    np.testing.assert_allclose(np.diff(low.windows)[1:-1], 0.06)
    np.testing.assert_allclose(np.diff(low.uniform)[1:-1], 0.06)
    np.testing.assert_allclose(np.diff(times.uniform)[1:-1], 0.02)
    plain = build(input_layer_conf={"stride": 4}).eval()
    with torch.no_grad():
        plain.encode(speech()["speech"][:1], torch.tensor([16000]))
    times = frame_times(plain, input_layer(plain).take_trace(), 16000, 16000, 26)
    assert times.lowest is None and times.of_strides() is times


# ------------------------------------------------------------------ cost
def test_blocks_cost_what_their_rate_costs():
    counts = {}
    for name, conf in (("low", {}), ("high", {"after_blocks": None, "stride": [2]})):
        conf = {"restore": False, **conf} if name == "high" else conf
        model = encoder(method="avg_pool", **conf)
        x = torch.zeros(1, 720, 40)
        counts[name] = macs_by_module(model, x, torch.tensor([720]))
    low, high = (
        [counts[n][f"ConformerEncoder.encoders.{b}"] for b in range(3)]
        for n in ("low", "high")
    )
    assert low[0] == high[0]
    # a third of the frames: a third of the linear layers, a ninth of the attention
    assert high[1] / 9 < low[1] < high[1] / 3
    assert low[2] < high[2] / 3


def test_the_experiment_is_what_it_says(tmp_path):
    """The middle's method and rate are the run's, all else is the same for all."""
    experiment = read_experiment(ROOT / "conf/experiments/whisper_restore.yaml")
    runs = {(run.system, run.rate): run for run in experiment.runs()}
    assert len(runs) == 21
    for (system, rate), run in runs.items():
        model = model_of_run(experiment, run, 256, tmp_path)
        layer = input_layer(model)
        middle = "adastride" if system == "bound_0.5" else system
        assert layer.methods == ["strided_conv", middle]
        assert layer.current_strides() == [2, rate / 2]
        assert layer.block_strides(3) == [2, rate, rate]
        assert layer.output_lengths(640) == 320
        assert 2.98e6 < sum(p.numel() for p in model.parameters()) < 3.11e6


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    "conf, words",
    [
        ({"after_blocks": None}, "give after_blocks, such as"),
        ({"after_blocks": [0, 0]}, "give after_blocks, such as"),
        ({"restore": "yes"}, "restore must be true .* got 'yes'"),
        ({"restore": 0}, "restore must be true .* got 0"),
        ({"restore": 2.0}, "restore must be true .* got 2.0"),
        ({"restore": 1}, "leaves no block at the rate of the stage after block 1"),
        ({"restore": 4}, "restore names block 4 and the encoder has 3"),
        ({"after_blocks": [0, 3]}, "names block 3, the encoder's last"),
        ({"restor": True}, "did you mean 'restore'"),
        ({"encoder": {"ctc_trim": True}}, "ctc_trim drops frames"),
        ({"encoder": {"layer_drop_rate": 0.1}}, "layer_drop_rate would drop"),
        (
            {
                "restore": False,
                "after_blocks": [0, 2],
                "encoder": {"interctc_layer_idx": [1]},
            },
            "interctc_layer_idx names block 1, before",
        ),
    ],
)  # fmt: skip
def test_refusals(conf, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        encoder(**conf)
    assert "\n" not in str(caught.value)
