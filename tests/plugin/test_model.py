"""ESPnet builds, trains, saves and loads the plugin's models; its own are unchanged."""

import argparse
import importlib.util
import math
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from espnet2.tasks.asr import ASRTask, encoder_choices, model_choices
from espnet2.utils.get_default_kwargs import get_default_kwargs

import espnet_adastride.plugin
from espnet_adastride import available_downsamplers
from espnet_adastride.downsampling import downsampler_class
from espnet_adastride.errors import ConfigurationError, ModelError
from espnet_adastride.plugin import model as models
from espnet_adastride.plugin.espnet import (
    Conv2dSubsampling,
    ESPnetASRModel,
    TooShortUttError,
)
from espnet_adastride.plugin.model import AdaStrideASRModel
from tests.plugin.releases import NEWER

ENCODERS = ["conformer", "e_branchformer", "branchformer", "transformer"]
TOKENS = ["<blank>", "<unk>", "a", "b", "c", "<sos/eos>"]
#: options that the models of all tasks have
COMMON = dict(
    token_list=TOKENS,
    input_size=None,
    frontend="default",
    frontend_conf=dict(n_fft=512, hop_length=160, n_mels=40),
    specaug=None,
    normalize="utterance_mvn",
    normalize_conf={},
)


def configuration(encoder="conformer", input_layer="adastride", model=None, **conf):
    encoder_conf = dict(
        output_size=16, num_blocks=2, attention_heads=2, input_layer=input_layer
    )
    if encoder in ("conformer", "transformer"):
        encoder_conf["linear_units"] = 16
    if encoder == "conformer":
        encoder_conf["rel_pos_type"] = "latest"
    encoder_conf.update(conf)
    return argparse.Namespace(
        **COMMON,
        preencoder=None,
        encoder=encoder,
        encoder_conf=encoder_conf,
        postencoder=None,
        decoder="transformer",
        decoder_conf=dict(attention_heads=2, linear_units=16, num_blocks=1),
        ctc_conf={},
        model="espnet",
        model_conf=dict(dict(ctc_weight=0.5), **(model or {})),
        init=None,
        joint_net_conf=None,
    )


def build(*args, **kwargs):
    torch.manual_seed(3)
    return ASRTask.build_model(configuration(*args, **kwargs))


def batch():
    torch.manual_seed(5)
    return dict(
        speech=torch.randn(2, 16000),
        speech_lengths=torch.tensor([16000, 9000]),
        text=torch.tensor([[2, 3, 4, 2], [3, 2, -1, -1]]),
        text_lengths=torch.tensor([4, 2]),
    )


def own_stats(word):
    """The stats that a word adds to ESPnet's, at stride 8 (three stages)."""
    of_positions = {"empty_slots", "largest_jump", "largest_stride", "stride_entropy"}
    own = {
        "adastride": {"loss_vp"},
        "adastride_f": {"loss_vp"},
        "diff_stride": {"stride", "stride_1", "stride_2", "stride_3"},
        "lift_pool": {"loss_aux"},
        "ada_pool": {"beta_1", "beta_2", "beta_3"},
        "hnet": {"loss_aux"},
    }.get(word, set())
    return own | of_positions if downsampler_class(word).has_positions else own


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("word", available_downsamplers())
def test_trains_with_every_encoder(encoder, word):
    model = build(encoder, word, input_layer_conf={"stride": 8})
    loss, stats, _ = model(**batch())
    loss.backward()
    assert loss.isfinite()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing  # an unused parameter stops distributed training
    theirs = ESPnetASRModel.forward(model, **batch())[1]
    assert set(stats) - set(theirs) == own_stats(word)
    _, lengths = model.encode(batch()["speech"], batch()["speech_lengths"])
    assert lengths.tolist() == [13, 8]  # of 101 and 57 feature frames


@pytest.mark.parametrize("encoder", ENCODERS)
def test_frames_of_a_batch_are_those_of_the_utterances_alone(encoder):
    speech = torch.randn(2, 58080)
    lengths = torch.tensor([58080, 46080])
    counted = {}
    for word in ("adastride", "conv2d"):
        model = build(encoder, word).eval()
        with torch.no_grad():
            _, together = model.encode(speech, lengths)
            _, alone = model.encode(speech[1:, :46080], lengths[1:])
        counted[word] = (together[1].item(), alone[0].item())
    assert counted["adastride"] == (73, 73)
    # ESPnet's own layers count like that since 202611
    assert counted["conv2d"] == ((71, 71) if NEWER else (73, 71))


def test_positioning_loss_joins_the_training_loss():
    rest = []
    for weight in (0.0, 1.0, 20.0):
        conf = {"stride": 4, "vp_weight": weight, "score_bound": None}
        model = build(input_layer_conf=conf).eval()
        torch.manual_seed(6)
        for downsampler in model.encoder.embed.downsamplers:
            torch.nn.init.normal_(downsampler.score.weight, std=3.0)
        loss, stats, _ = model(**batch())
        rest.append((loss - weight * stats["loss_vp"]).item())
        assert stats["loss"].item() == pytest.approx(loss.item())
        assert stats["loss_vp"].item() > 0
        assert 0 < stats["empty_slots"].item() < 1
        assert stats["largest_jump"].item() > 1
    assert rest[1:] == pytest.approx(rest[:1] * 2, rel=1e-5)


def test_regularisers_of_other_methods_join_with_weights_of_their_own():
    conf = {"method": ["lift_pool", "adastride"], "vp_weight": 3.0}
    model = build(input_layer_conf=dict(conf, update_weight=5.0)).eval()
    loss, stats, _ = model(**batch())
    alone = ESPnetASRModel.forward(model, **batch())[0]
    assert stats["loss_aux"].item() > 0.1
    expected = alone + 3.0 * stats["loss_vp"] + stats["loss_aux"]
    assert loss.item() == stats["loss"].item() == pytest.approx(expected.item())


def test_a_rate_by_the_content_is_what_comes_out():
    """hnet by its threshold: lengths, losses and stats are those of the boundaries."""
    conf = {"stride": [2, 4], "exact": False, "ratio_weight": 2.0}
    model = build("conformer", "hnet", input_layer_conf=conf)
    for stage in model.encoder.embed.downsamplers:
        torch.nn.init.normal_(stage.query.weight)
    loss, stats, _ = model.eval()(**batch())
    alone = ESPnetASRModel.forward(model, **batch())[0]
    assert loss.item() == pytest.approx((alone + stats["loss_aux"]).item())
    assert stats["loss_aux"].item() > 1  # 2 for each stage at its own rate
    frames, lengths = model.encode(batch()["speech"], batch()["speech_lengths"])
    rates = stats["rate_1"].item() * stats["rate_2"].item()
    # the features are 101 and 57
    assert 158 / lengths.sum().item() == pytest.approx(rates)
    assert frames.size(1) == lengths.max() and lengths.tolist() != [13, 8]
    loss.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    with pytest.raises(ConfigurationError, match="hnet.* have fixed strides"):
        model.encoder.embed.set_stride(4)


def test_the_learned_stride_moves_in_training_and_lengths_follow():
    model = build("conformer", "diff_stride", input_layer_conf={"trunk": "conv1d"})
    layer, data = model.encoder.embed, batch()
    strides = [p for n, p in model.named_parameters() if "stride_change" in n]
    assert len(strides) == 2
    others = [p for n, p in model.named_parameters() if "stride_change" not in n]
    optimiser = torch.optim.Adam(
        [{"params": others, "lr": 1e-3}, {"params": strides, "lr": 0.05}]
    )
    seen, lengths = [], []
    for _ in range(12):
        optimiser.zero_grad()
        loss, stats, _ = model(**data)
        loss.backward()
        optimiser.step()
        assert loss.isfinite()
        seen.append(stats["stride"].item())
        assert stats.keys() >= {"stride", "stride_1", "stride_2"}
        encoded, frames = model.encode(data["speech"], data["speech_lengths"])
        first, second = layer.current_strides()
        assert 1 <= first <= 4 and 1 <= second <= 4
        expected = [math.ceil(math.ceil(n / first) / second) for n in (101, 57)]
        assert frames.tolist() == expected and encoded.size(1) == expected[0]
        lengths.append(expected)
    assert seen[0] == 4.0 and abs(seen[-1] - 4.0) > 0.3
    assert lengths[-1] != [26, 15] and len({tuple(n) for n in lengths}) > 1
    # what was learned is kept, and decides the length of what is loaded
    other = build("conformer", "diff_stride", input_layer_conf={"trunk": "conv1d"})
    other.load_state_dict(model.state_dict(), strict=False)
    other.eval()
    with torch.no_grad():
        _, frames = other.encode(data["speech"], data["speech_lengths"])
    assert frames.tolist() == lengths[-1]


def test_a_training_step_waits_for_a_gpu_once_a_stage_and_never_else(host_waits):
    """Of all that the plugin does; what ESPnet does with a stock layer is the rest."""

    def step(*args, **kwargs):
        model = build("conformer", *args, **kwargs)
        host_waits.scalars.clear(), host_waits.lists.clear()
        with host_waits:
            model(**batch())[0].backward()
        return len(host_waits.scalars), len(host_waits.lists)

    scalars, lists = step("conv2d")
    # a second of speech is so short that AdaStride is applied densely, without a wait
    assert step("adastride", input_layer_conf={"stride": 4}) == (scalars, lists)
    assert step("adastride_f", input_layer_conf={"stride": 4}) == (scalars, lists + 2)
    for word in ("cif", "merge", "hnet", "random_strides"):
        assert step(word, input_layer_conf={"stride": 4}) == (scalars, lists), word


def test_intermediate_ctc_and_all_hidden_states():
    model = build(
        "conformer",
        "adastride",
        model=dict(interctc_weight=0.3),
        interctc_layer_idx=[1],
        interctc_use_conditioning=True,
    )
    _, stats, _ = model(**batch())
    assert stats["loss_interctc_layer1"].isfinite()
    features = torch.randn(1, 50, 40)
    encoder = build("conformer", "adastride").eval().encoder
    (out, hidden), lengths, _ = encoder(
        features, torch.tensor([50]), return_all_hs=True
    )
    assert len(hidden) == 2 and all(h.shape == out.shape for h in hidden)
    assert lengths.tolist() == [13]


@pytest.mark.parametrize("word", ["adastride", "adastride_f", "cif"])
def test_espnets_own_initialisation_keeps_the_start_at_uniform_strides(word):
    arguments = configuration("transformer", word)
    arguments.init = "xavier_uniform"
    layer = ASRTask.build_model(arguments).encoder.embed
    torch.manual_seed(4)
    layer(torch.randn(1, 64, 40), torch.ones(1, 1, 64, dtype=torch.bool))
    for trace in layer.take_trace():
        steps = trace.positions[0, : int(trace.input_lengths)].diff()[1:-1]
        assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-6)


def test_espnets_own_initialisation_takes_a_stride_in_the_trunk():
    arguments = configuration("transformer", "strided_conv")
    arguments.init = "xavier_uniform"
    assert ASRTask.build_model(arguments).encoder.embed.stages()[0].stride == 2


@pytest.mark.parametrize("encoder", ENCODERS)
def test_too_short_utterances_are_refused_as_espnet_does(encoder):
    model = build(encoder, "adastride").eval()
    with pytest.raises(TooShortUttError, match="too short"):
        model.encoder(torch.randn(1, 3, 40), torch.tensor([3]))


STOCK = ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8", "linear"]
UNTOUCHED = [(encoder, word) for encoder in ENCODERS for word in STOCK]
UNTOUCHED += [("e_branchformer", word) for word in ("conv1d1", "conv1d2", "conv1d3")]


@pytest.mark.parametrize("encoder, word", UNTOUCHED)
def test_stock_input_layers_are_untouched(encoder, word):
    """Outputs with and without the plugin are identical, given the same seed."""
    stock = type(build(encoder, word).encoder).__mro__[2]
    assert stock.__module__.startswith("espnet2.")
    conf = configuration(encoder, word).encoder_conf
    torch.manual_seed(3)
    theirs = stock(input_size=40, **conf).eval()
    torch.manual_seed(3)
    ours = encoder_choices.get_class(encoder)(input_size=40, **conf).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, parameter in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], parameter)
    x, lengths = torch.randn(3, 50, 40), torch.tensor([50, 31, 16])
    for mine, other in zip(ours(x, lengths)[:2], theirs(x, lengths)[:2]):
        assert torch.equal(mine, other)


def test_model_with_a_stock_layer_reports_what_espnet_reports():
    model = build("conformer", "conv2d").eval()
    theirs = ESPnetASRModel.forward(model, **batch())
    ours = model(**batch())
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys()


def other_model(word, conf=None, **model):
    """Build a model of another ``model:`` than espnet."""
    args = configuration("conformer", "adastride", model, input_layer_conf=conf or {})
    args.model, args.token_list = word, list(TOKENS)
    if word == "maskctc":
        args.decoder = "mlm"
        args.decoder_conf = dict(attention_heads=2, linear_units=16, num_blocks=1)
    torch.manual_seed(3)
    return ASRTask.build_model(args)


def test_mask_ctc_trains_the_input_layer_too():
    model = other_model("maskctc", {"stride": 4}).train()
    for layer in model.encoder.embed.downsamplers:
        torch.nn.init.normal_(layer.score.weight, std=3.0)
    loss, stats, _ = model(**batch())
    assert own_stats("adastride") <= stats.keys() and stats["loss_vp"] > 0
    without = 0.5 * (stats["loss_ctc"] + stats["loss_mlm"])
    assert torch.isclose(stats["loss"], without + stats["loss_vp"])
    assert torch.equal(loss.detach(), stats["loss"])
    assert not model.encoder.embed.take_trace()  # which held on to the graph
    blocks = other_model("maskctc", {"stride": 4, "block": 0.5})
    assert blocks.encoder.embed.blocks.frames == 48
    with pytest.raises(ConfigurationError, match="score_from_ctc needs an intermed"):
        conf = {"stride": 4, "after_blocks": [0, 1], "score_from_ctc": True}
        other_model("maskctc", conf)


class OwnModel(ESPnetASRModel):
    """A model that a user derives from ESPnet's."""

    def forward(self, *args, **kwargs):
        loss, stats, weight = super().forward(*args, **kwargs)
        return loss + 1, {**stats, "own": loss.detach()}, weight


def test_a_users_model_trains_the_input_layer_too(monkeypatch):
    monkeypatch.setitem(model_choices.classes, "own", OwnModel)
    model = other_model("own", {"stride": 4}).train()
    assert isinstance(model, OwnModel) and type(model).__name__ == "OwnModel"
    for layer in model.encoder.embed.downsamplers:
        torch.nn.init.normal_(layer.score.weight, std=3.0)
    loss, stats, _ = model(**batch())
    assert stats["loss_vp"] > 0
    assert torch.isclose(loss.detach(), stats["own"] + 1 + stats["loss_vp"])


def test_models_that_would_train_without_the_losses_are_refused():
    with pytest.raises(ConfigurationError, match="pit_espnet_model.*take model: esp"):
        other_model("pit_espnet")
    args = configuration("conformer", "conv2d")
    args.model = "pit_espnet"
    assert type(ASRTask.build_model(args)).__name__ == "ESPnetASRModel"


def test_defaults_reach_the_configuration_file():
    defaults = get_default_kwargs(encoder_choices.get_class("conformer"))
    assert defaults["input_layer"] == "conv2d"
    assert defaults["input_layer_conf"] == {}
    assert defaults["macaron_style"] is False


@pytest.mark.parametrize(
    "word, conf, message",
    [
        ("adastrid", {}, "unknown input_layer 'adastrid'.*'adastride'.*conv2d6"),
        ("adastrid", {"stride": 4}, "unknown input_layer 'adastrid'.*'adastride'"),
        ("conv2d", {"stride": 4}, "input_layer is 'conv2d', which has no"),
        ("adastride", "stride: 4", "input_layer_conf: must be options such as"),
        ("adastride", {"odim": 4}, "input_layer_conf: unknown key 'odim'.*stride"),
        ("adastride", {4: 4}, "input_layer_conf: unknown key 4.*stride"),
        ("adastride", {"stride": 0.5}, "stride must be a real number >= 1"),
    ],
)
def test_wrong_words_fail_when_the_model_is_built(word, conf, message):
    with pytest.raises(ConfigurationError, match=message):
        build("conformer", word, input_layer_conf=conf)


def test_wrong_keys_beside_the_input_layer_fail_when_the_model_is_built():
    with pytest.raises(
        ConfigurationError,
        match=r"^encoder_conf: unknown key 'input_layer_config' \(did you mean "
        r"'input_layer_conf'\?\); choose from: input_layer_conf, output_size, ",
    ):
        build("conformer", "adastride", input_layer_config={"stride": 8})
    with pytest.raises(ConfigurationError, match="unknown key 'num_block'.*num_blocks"):
        build("conformer", "conv2d", num_block=2)


@pytest.mark.parametrize("word", [["adastride"], {"adastride": 4}, 4, True])
def test_an_input_layer_that_is_no_word_fails_in_one_line(word):
    with pytest.raises(ConfigurationError, match="encoder_conf: unknown input_layer"):
        build("conformer", word)


def test_registration_is_idempotent():
    before = dict(encoder_choices.classes)
    espnet_adastride.plugin.register()
    assert encoder_choices.classes == before
    assert model_choices.classes["espnet"] is AdaStrideASRModel


@pytest.mark.parametrize("name", models.NAMES.values())
def test_every_model_can_be_imported_and_pickled(name):
    kind = getattr(models, name)
    assert kind.__name__ == name and pickle.loads(pickle.dumps(kind)) is kind


def test_an_unfitting_checkpoint_is_refused_with_its_keys():
    adaptive = build("conformer", "adastride")
    state = adaptive.state_dict()
    assert adaptive.load_state_dict(state, strict=False)
    renamed = {k.replace("score.weight", "scores"): v for k, v in state.items()}
    with pytest.raises(ModelError) as error:
        adaptive.load_state_dict(renamed, strict=False)
    assert "missing: encoder.embed.downsamplers.0.score.weight" in str(error.value)
    assert "not in the model: encoder.embed.downsamplers.0.scores" in str(error.value)
    stock = build("conformer", "conv2d")
    with pytest.raises(ModelError, match="encoder.embed"):
        stock.load_state_dict(state, strict=False)
    # ESPnet's leniency elsewhere stays ESPnet's
    partial = {k: v for k, v in stock.state_dict().items() if "decoder" not in k}
    stock.load_state_dict(partial, strict=False)
    other = build("conformer", "adastride", input_layer_conf={"channels": 4})
    with pytest.raises(ModelError, match=r"another shape: encoder\.embed"):
        other.load_state_dict(state, strict=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("word", ["adastride", "conv2d"])
def test_statistics_are_those_of_the_training(tmp_path, word, strict):
    """A later stage 10 for another frontend replaces the file of all experiments."""
    path = tmp_path / "feats_stats.npz"

    def model(mels, seed):
        sums = np.random.default_rng(seed).uniform(1, 2, (2, mels))
        np.savez(path, count=1, sum=sums[0], sum_square=sums[0] ** 2 + sums[1])
        args = configuration("conformer", word)
        args.normalize, args.normalize_conf = "global_mvn", {"stats_file": str(path)}
        return ASRTask.build_model(args).eval()

    trained = model(40, 0)
    state, speech = trained.state_dict(), torch.randn(1, 16000)
    wanted, _ = trained.encode(speech, torch.tensor([16000]))
    for mels in (40, 80):
        later = model(mels, 1)
        assert later.normalize.mean.shape == (mels,)
        later.load_state_dict(state, strict=strict)
        # float: 202511 keeps float64 until the first forward
        assert torch.equal(later.normalize.std.float(), trained.normalize.std.float())
        assert torch.equal(later.encode(speech, torch.tensor([16000]))[0], wanted)
    other, later = {**state, "ctc.ctc_lo.bias": torch.zeros(9)}, model(80, 1)
    with pytest.raises(RuntimeError if strict else ModelError, match="normalize.mean"):
        later.load_state_dict(other, strict=strict)  # of another model
    assert later.normalize.mean.shape == (80,)


def test_input_layer_is_a_conv2d_subsampling_for_espnet():
    layer = build("conformer", "adastride").encoder.embed
    assert isinstance(layer, Conv2dSubsampling)
    assert layer[-1] is layer.out[-1]


@pytest.mark.slow
def test_spawned_children_get_the_plugin(tmp_path, warm_python):
    """multiprocessing's spawn re-imports the main module by name, and nothing else."""
    tool = tmp_path / "spawning_tool.py"
    tool.write_text(
        "import multiprocessing\n"
        "from spawning_child import child\n"
        "def main():\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    process = context.Process(target=child)\n"
        "    process.start(); process.join()\n"
        "    raise SystemExit(process.exitcode)\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    (tmp_path / "spawning_child.py").write_text(
        "def child():\n"
        "    from espnet2.tasks.asr import encoder_choices\n"
        "    name = encoder_choices.classes['conformer'].__module__\n"
        "    raise SystemExit(0 if name.startswith('espnet_adastride') else 7)\n"
    )
    # where nothing is installed, the plugin is found where these tests found it
    package = Path(espnet_adastride.__file__).parents[1]
    path = os.pathsep.join([str(tmp_path), str(package)])
    result = subprocess.run(
        [warm_python, "-m", "espnet_adastride.bin.run", "-m", "spawning_tool"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        timeout=900,  # the child imports ESPnet, on a machine that may be busy
    )
    assert result.returncode == 0


def test_runner_prints_a_mistake_as_one_line(capsys):
    from espnet_adastride.bin import run

    code = (
        "from espnet_adastride.errors import ConfigurationError\n"
        "raise ConfigurationError('encoder_conf: cause and fix')"
    )
    with pytest.raises(SystemExit, match="^error: encoder_conf: cause and fix$"):
        run.main(["-c", code])
    with pytest.raises(SystemExit):
        run.main(["--help"])
    assert "espnet2.bin.asr_train" in capsys.readouterr().out
    assert importlib.util.find_spec("espnet_adastride.bin.run")
