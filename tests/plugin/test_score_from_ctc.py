"""Scores that start from an intermediate CTC's 1 - p(blank)."""

import copy
import math

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.tasks.asr import ASRTask

from espnet_adastride.downsampling import build_downsampler, position_steps
from espnet_adastride.downsampling.adastride import bound_scores
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.experiments.definition import ROOT, read_experiment
from espnet_adastride.plugin.encoders import ConformerEncoder
from espnet_adastride.plugin.later_stages import LaterStage
from espnet_adastride.plugin.model import input_layer
from tests.plugin.experiment_models import model_of_run
from tests.plugin.releases import NEWER
from tests.plugin.test_model import batch, build, configuration

LAYER = {"stride": [2, 3], "after_blocks": [0, 1], "score_from_ctc": True}
WITH_CTC = ["conformer", "e_branchformer", "multiconv_conformer", "transformer"]


def model_of(kind="transformer", interctc=(1,), interctc_weight=0.3, **conf):
    own = {}
    if kind == "multiconv_conformer":
        own = dict(multicgmlp_kernel_sizes="3,5", multicgmlp_merge_conv_kernel=3)
        own.update(linear_units=16, rel_pos_type="latest")
    if kind != "branchformer":
        own["interctc_layer_idx"] = list(interctc)
    model = build(
        kind,
        model=dict(ctc_weight=0.5, interctc_weight=interctc_weight),
        num_blocks=3,
        input_layer_conf={**LAYER, **conf},
        **own,
    )
    return model


def stage_of(model):
    return input_layer(model).later[0]


def decide(model):
    """Give the CTC firm opinions, and the score weights, away from their start."""
    torch.manual_seed(8)
    with torch.no_grad():
        model.ctc.ctc_lo.weight.normal_(std=2.0)
        stage_of(model).downsampler.score.weight.normal_()
    return model


# ------------------------------------------------------------------ the formula
class Plain(torch.nn.Module):
    """An encoder whose intermediate frames are not normalised."""


def stage_by_hand(ctc_start, **options):
    """A stage, with p(blank) = sigmoid(first feature)."""
    downsampler = build_downsampler("adastride", 4, 2, **options)
    stage = LaterStage(1, downsampler, ctc_start=ctc_start).double()
    ctc = CTC(odim=2, encoder_output_size=3).double()
    with torch.no_grad():
        ctc.ctc_lo.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        ctc.ctc_lo.bias.zero_()
    stage.use_ctc(Plain(), ctc)
    return stage, ctc


def frames_by_hand():
    """p(blank) = 1/2, 1/2, 1 and 0; then padding."""
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    x[0, :, 0] = torch.tensor([0.0, 0.0, 80.0, -80.0, torch.nan])
    return x, torch.tensor([[[True, True, True, True, False]]])


@pytest.mark.parametrize("score_rate", [1.0, 4.0])
def test_positions_by_hand(score_rate):
    """v = log 4: steps 2, 3, 4 take 2, 1 and 4 of 7 parts of the segment."""
    stage, _ = stage_by_hand(math.log(4.0), score_rate=score_rate)
    assert stage.downsampler.score.weight[0, :3].abs().max() == 0
    torch.testing.assert_close(stage.ctc_score().item(), math.log(4.0))
    x, mask = frames_by_hand()
    z, shorter = stage._shorten(None, None, (x, mask))
    expected = torch.tensor([[0.0, 2 / 7, 3 / 7, 1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(stage.take_trace()[0].positions, expected)
    assert z.shape == (1, 3, 3) and shorter.tolist() == [[[True, True, False]]]
    distance = torch.arange(2).unsqueeze(1) - expected[0, :4]
    rows = torch.softmax(-5.0 * distance.square(), dim=1)
    torch.testing.assert_close(z[0, :2], rows @ x[0, :4])


def test_the_gradient_is_that_of_a_constant():
    """Neither the CTC nor x by way of it gets one; w and v do."""
    stage, ctc = stage_by_hand(1.0)
    with torch.no_grad():
        stage.downsampler.score.weight[0, :3].normal_()
    x, mask = frames_by_hand()
    x = torch.randn_like(x)
    grads = []
    for constant in (False, True):
        stage.zero_grad()
        given = x.clone().requires_grad_()
        if constant:
            seen = torch.cat([given, stage.not_blank(x)], dim=2)
            z = stage.downsampler(seen, torch.tensor([4])).output[..., :3]
        else:
            z, _ = stage._shorten(None, None, (given, mask))
        z[0, :2].square().sum().backward()
        grads.append((given.grad, stage.downsampler.score.weight.grad.clone()))
    torch.testing.assert_close(*grads)
    assert (grads[0][1] != 0).all()
    assert all(parameter.grad is None for parameter in ctc.parameters())


@pytest.mark.parametrize("kind", WITH_CTC)
def test_reads_what_the_intermediate_ctc_reads(kind):
    """The block's own frames, normalised where ESPnet does so, before they shorten."""
    model = decide(model_of(kind, score_bound=0.5)).eval()
    stage, found = stage_of(model), []
    hooks = model.encoder.encoders[0]._forward_hooks
    own = model.encoder.encoders[0].register_forward_hook(
        lambda m, i, o: found.append(o[0][0] if isinstance(o[0], tuple) else o[0])
    )
    hooks.move_to_end(own.id, last=False)
    data = batch()
    with torch.no_grad():
        (frames, inner), lengths = model.encode(data["speech"], data["speech_lengths"])
        x = found[0]
        if kind != "e_branchformer":
            x = model.encoder.after_norm(x)
        blank = torch.softmax(model.ctc.ctc_lo(x), dim=2)[..., 0]
        weight = stage.downsampler.score.weight[0].double()
        scores = found[0].double() @ weight[:-1] + (1 - blank).double() * weight[-1]
    trace = input_layer(model).take_trace()[1]
    scores = bound_scores(scores, trace.input_lengths, 0.5)
    expected = position_steps(scores, trace.input_lengths, trace.output_lengths)
    torch.testing.assert_close(trace.positions, expected, atol=1e-5, rtol=0)
    uniform = torch.linspace(0, 1, 51).double() * expected[0, -1]
    assert (expected[0] - uniform).abs().max() > 0.05
    assert lengths.tolist() == [17, 10] and inner[0][1].shape == frames.shape


# ------------------------------------------------------------------ in a model
@pytest.mark.parametrize("kind", WITH_CTC)
@pytest.mark.parametrize(
    "conf", [{}, {"restore": True}, {"method": ["avg_pool", "adastride_f"]}]
)
def test_trains(kind, conf):
    model = model_of(kind, **conf)
    loss, stats, _ = model(**batch())
    loss.backward()
    assert loss.isfinite() and stats["loss_interctc_layer1"].isfinite()
    assert float(stats["ctc_score_2"]) == 1.0
    assert stage_of(model).downsampler.score.weight.grad[0, -1] != 0
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing  # an unused parameter stops distributed training


def test_alone_is_as_in_a_batch():
    model = decide(model_of("transformer")).eval()
    x, lengths = torch.randn(2, 70, 40), torch.tensor([70, 41])
    with torch.no_grad():
        (both, _), lengths, _ = model.encoder(x, lengths)
        (alone, _), _, _ = model.encoder(x[1:, :41], torch.tensor([41]))
    count = int(lengths[1])
    torch.testing.assert_close(both[1, :count], alone[0, :count], atol=1e-5, rtol=1e-5)


def test_a_copy_reads_its_own_ctc():
    model = decide(model_of()).eval()
    data = batch()
    with torch.no_grad():
        (expected, _), _ = model.encode(data["speech"], data["speech_lengths"])
        twin = copy.deepcopy(model)
        model.ctc.ctc_lo.weight.zero_()
        (found, _), _ = twin.encode(data["speech"], data["speech_lengths"])
        (other, _), _ = model.encode(data["speech"], data["speech_lengths"])
    torch.testing.assert_close(found, expected)
    assert (other - expected).abs().max() > 1e-3


@pytest.mark.skipif(not NEWER, reason="gradient_checkpoint_layers is of 202611")
def test_checkpointed_blocks_have_the_same_gradients():
    grads, runs = [], []
    for layers in ([], [0, 1, 2, 3]):
        model = decide(model_of("e_branchformer")).train()
        model.encoder.gradient_checkpoint_layers = layers
        model.encoder.encoders[0].register_forward_pre_hook(
            lambda *_: runs.append(len(layers))
        )
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model(**batch())[0].backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    torch.testing.assert_close(*grads)
    assert runs == [0, 4, 4]  # the stage ran again


def test_without_the_word_nothing_changes():
    plain, without = (
        model_of(**{"score_from_ctc": off} if off is not None else {})
        for off in (False, None)
    )
    with_ctc = without.state_dict()
    key = "encoder.embed.later.0.downsampler.score.weight"
    assert plain.state_dict().keys() == with_ctc.keys()  # no buffers, no second CTC
    assert plain.state_dict()[key].shape == (1, 16) and with_ctc[key].shape == (1, 17)
    loss, stats, _ = plain(**batch())
    assert loss.isfinite() and "ctc_score_2" not in stats


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    "conf, words",
    [
        ({"after_blocks": [0, 0]}, "none: give after_blocks, such as"),
        ({"method": ["adastride", "cif"]}, "after block 1 is cif, which has no scores"),
        ({"method": "random_strides"}, "after block 1 is random_strides"),
        ({"score_context": 5}, "score_hidden and score_context compute these"),
        ({"score_from_ctc": 0}, "score_from_ctc must be a number above 0"),
        ({"score_from_ctc": "yes"}, "must be a number above 0, got 'yes'"),
        ({"interctc": []}, r"interctc_layer_idx must have 1, got \[\]"),
        ({"interctc": [2]}, r"interctc_layer_idx must have 1, got \[2\]"),
        (
            # a later block than 1 is no way out: the scores after block 1 read its CTC
            {"stride": [2, 2, 2], "after_blocks": [0, 1, 2], "interctc": [1, 2]},
            "not those of the last CTC; set restore: true",
        ),
        ({"kind": "branchformer"}, "this encoder has none; take conformer"),
        ({"interctc_weight": 0.0}, "set model_conf: interctc_weight, such as 0.3"),
    ],
)
def test_refusals(conf, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        model_of(**conf)
    assert "\n" not in str(caught.value)


def test_a_model_without_ctc_is_refused():
    with pytest.raises(ConfigurationError, match="set model_conf: ctc_weight above 0"):
        build(
            "transformer",
            model=dict(ctc_weight=0.0),
            interctc_layer_idx=[1],
            input_layer_conf=LAYER,
        )


def test_an_encoder_without_a_model_is_refused():
    encoder = ConformerEncoder(
        40,
        16,
        num_blocks=2,
        attention_heads=2,
        rel_pos_type="latest",
        interctc_layer_idx=[1],
        input_layer="adastride",
        input_layer_conf=LAYER,
    )
    with pytest.raises(ConfigurationError, match="needs the CTC of a model"):
        encoder(torch.randn(1, 40, 40), torch.tensor([40]))


def test_the_experiment_is_what_it_says(tmp_path):
    """All have the layout and the intermediate CTC; one starts scores from it."""
    experiment = read_experiment(ROOT / "conf/experiments/whisper_ctc_scores.yaml")
    runs = {run.system: run for run in experiment.runs()}
    parameters = {}
    for system, run in runs.items():
        model = model_of_run(experiment, run, 1000, tmp_path)
        layer = input_layer(model)
        assert layer.methods[0] == "strided_conv"
        assert layer.block_strides(2) == [2, 8] and layer.output_lengths(640) == 80
        assert model.encoder.interctc_layer_idx == [1] and model.interctc_weight == 0.3
        assert layer.later[0].from_ctc == (system == "score_from_ctc")
        parameters[system] = sum(p.numel() for p in model.parameters())
    assert parameters["score_from_ctc"] == parameters["adastride"] + 1


def test_espnets_own_initialisation_keeps_the_start():
    arguments = configuration(
        "transformer",
        model=dict(ctc_weight=0.5, interctc_weight=0.3),
        num_blocks=3,
        input_layer_conf=LAYER,
        interctc_layer_idx=[1],
    )
    arguments.init = "xavier_normal"
    stage = stage_of(ASRTask.build_model(arguments))
    assert stage.ctc_score() == pytest.approx(1.0)
    assert not stage.downsampler.score.weight[0, :-1].any()
