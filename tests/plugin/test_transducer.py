"""ESPnet's task asr_transducer with our input block: built, trained, decoded."""

import argparse
import copy

import numpy as np
import pytest
import soundfile
import torch
from espnet2.asr_transducer.encoder.encoder import Encoder
from espnet2.asr_transducer.encoder.modules.attention import (
    RelPositionMultiHeadedAttention,
)
from espnet2.asr_transducer.encoder.modules.positional_encoding import (
    RelPositionalEncoding,
)
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel

import espnet_adastride.plugin  # noqa: F401
from espnet_adastride.bin import run
from espnet_adastride.downsampling import available_downsamplers
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.frame_times import frame_times
from espnet_adastride.plugin.rnnt_loss import PACKAGE, RNNTLoss
from espnet_adastride.plugin.trainer import StrideTrainer
from espnet_adastride.plugin.transducer import (
    TransducerSubsampling,
    TrueTimeTransducerAttention,
)
from espnet_adastride.plugin.true_times import time_encoding
from tests.plugin.releases import NEWER
from tests.plugin.test_model import COMMON, batch
from tests.plugin.test_model import build as asr_model
from tests.plugin.test_model import own_stats
from tests.release_models import RATE, write_corpus

XFORMER = {"hidden_size": 16, "linear_size": 16, "conv_mod_kernel_size": 3, "heads": 2}
CONFORMER = {"block_type": "conformer", **XFORMER}
CONV1D = {"block_type": "conv1d", "output_size": 16, "kernel_size": 3}


def configuration(body=(CONFORMER, CONFORMER), main_conf=None, model=None, **block):
    return argparse.Namespace(
        **COMMON,
        encoder_conf={
            "input_conf": block,
            "body_conf": [dict(one) for one in body],
            "main_conf": main_conf or {},
        },
        decoder="rnn",
        decoder_conf=dict(embed_size=8, hidden_size=8),
        joint_network_conf=dict(joint_space_size=8),
        model_conf=dict(model or {}),
        init=None,
    )


def build(*args, **kwargs):
    torch.manual_seed(3)
    task = espnet.asr_transducer_task.ASRTransducerTask
    return task.build_model(configuration(*args, **kwargs))


@pytest.mark.parametrize("word", available_downsamplers())
def test_every_word_takes_a_step(word):
    model = build(block_type=word, stride=8, model={"auxiliary_ctc_weight": 0.3})
    assert type(model).__name__ == "AdaStrideTransducerModel"
    loss, stats, _ = model.train()(**batch())
    loss.backward()
    assert loss.isfinite()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing  # an unused parameter stops distributed training
    theirs = ESPnetASRTransducerModel.forward(model, **batch())[1]
    assert set(stats) - set(theirs) == own_stats(word)
    _, lengths = model.encode(batch()["speech"], batch()["speech_lengths"])
    assert lengths.tolist() == [13, 8]  # of 101 and 57 feature frames


@pytest.mark.parametrize(
    "body",
    [
        [CONFORMER],
        [{**CONFORMER, "block_type": "branchformer", "num_blocks": 2}],
        [{**CONFORMER, "block_type": "ebranchformer"}],
    ],
    ids=lambda body: body[0]["block_type"],
)
@pytest.mark.parametrize("options", [{}, {"tell_strides": True, "true_times": True}])
def test_frames_of_a_batch_are_those_of_the_utterances_alone(body, options):
    """The input block's; what ESPnet's blocks read of the padding is theirs."""
    encoder = build(body, block_type="adastride", stride=5, **options).encoder.eval()
    with torch.no_grad():
        for stage in encoder.embed.downsamplers:
            stage.score.weight.normal_()
        if options:
            encoder.embed.stride_vector.normal_()
    x, lengths = torch.randn(2, 101, 40), torch.tensor([101, 57])
    with torch.no_grad():
        _, its_lengths = encoder(x, lengths)
        _, length = encoder(x[1:, :57], lengths[1:])
        together, mask = encoder.embed(x, torch.arange(101) >= lengths[:, None])
        places = encoder.pos_enc(together)
        alone, no_mask = encoder.embed(x[1:, :57])
        place = encoder.pos_enc(alone)
    assert its_lengths.tolist() == [21, 12] and length.tolist() == [12]
    assert mask.eq(0).sum(dim=1).tolist() == [21, 12] and no_mask is None
    torch.testing.assert_close(together[1:, :12], alone, atol=1e-5, rtol=1e-5)
    if options:
        torch.testing.assert_close(places[1:, :12], place, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(
    not NEWER, reason="202511 counts no frames that its conv1d takes: losses refuse it"
)
def test_a_convolution_may_be_the_first_block():
    """As in ESPnet's recipes; it takes as many features as it gives."""
    model = build([CONV1D, CONFORMER], block_type="adastride", stride=4)
    assert model.encoder.embed.out[0].out_features == 16
    loss, stats, _ = model.train()(**batch())
    loss.backward()
    assert loss.isfinite() and stats["loss_vp"] >= 0
    frames, lengths = model.encode(batch()["speech"], batch()["speech_lengths"])
    assert frames.size(1) == 26 - 2  # its kernel is 3, without padding


def test_rates_are_real_and_drawn():
    model = build(block_type="adastride", stride=4.5, train_strides=[2, 8])
    speech, samples = batch()["speech"], batch()["speech_lengths"]
    counts = {model.train().encode(speech, samples)[0].size(1) for _ in range(8)}
    assert len(counts) > 1
    assert model.eval().encode(speech, samples)[1].tolist() == [23, 13]


def test_espnets_own_encoder_is_espnets():
    task = espnet.asr_transducer_task
    assert issubclass(task.Encoder, Encoder) and task.Encoder is not Encoder
    x, lengths = torch.randn(2, 60, 40), torch.tensor([60, 33])
    for conf in ({}, {"vgg_like": True}, {"block_type": "conv2d"}):
        made = []
        for kind in (Encoder, task.Encoder):
            torch.manual_seed(1)
            body = [dict(CONV1D), dict(CONFORMER)]
            encoder = kind(40, body_conf=body, input_conf=dict(conf)).eval()
            made.append(encoder)
        ours = made[1].state_dict()
        assert list(ours) == list(made[0].state_dict())
        assert torch.equal(made[0](x, lengths)[0], made[1](x, lengths)[0])
        assert not isinstance(made[1].embed, TransducerSubsampling)
    assert task.ASRTransducerTask.trainer is StrideTrainer


# ------------------------------------------------------------------ true times
@pytest.mark.parametrize("simplified", [False, True])
def test_at_whole_times_attention_is_espnets(simplified):
    torch.manual_seed(0)
    stock = RelPositionMultiHeadedAttention(2, 16, 0.0, simplified).eval()
    ours = copy.deepcopy(stock)
    ours.__class__ = TrueTimeTransducerAttention
    name = stock.compute_att_score.__name__
    ours.compute_att_score = getattr(ours, name)
    x = torch.randn(2, 9, 16)
    mask = torch.arange(9) >= torch.tensor([[9], [6]])
    at = time_encoding(torch.arange(9.0).expand(2, -1), 16).float()
    with torch.no_grad():
        wanted = stock(x, x, x, RelPositionalEncoding(16)(x), mask)
        torch.testing.assert_close(
            ours(x, x, x, at, mask), wanted, atol=1e-5, rtol=1e-5
        )
        # differences alone count
        later = time_encoding(torch.arange(9.0).expand(2, -1) + 3.7, 16).float()
        torch.testing.assert_close(
            ours(x, x, x, later, mask), wanted, atol=1e-5, rtol=1e-5
        )
        other = time_encoding(torch.arange(9.0).expand(2, -1) ** 1.1, 16).float()
        assert (ours(x, x, x, other, mask) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("simplified", [False, True])
def test_true_times_train(simplified):
    main = {"simplified_att_score": simplified}
    model = build(main_conf=main, block_type="adastride", true_times=True)
    plain = build(main_conf=main, block_type="adastride")
    assert list(model.state_dict()) == list(plain.state_dict())
    kinds = {
        type(m) for m in model.modules() if isinstance(m, espnet.TransducerAttention)
    }
    assert kinds == {TrueTimeTransducerAttention}
    loss, _, _ = model.train()(**batch())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters()) and loss.isfinite()
    assert model.encoder.embed.out[1].times is None  # nothing is kept


def test_the_frames_have_the_times_of_an_asr_model_with_the_same_layer():
    ours = build(block_type="adastride", stride=4).eval()
    other = asr_model("conformer", "adastride").eval()
    layer = other.encoder.embed
    with torch.no_grad():
        for stage in layer.downsamplers:
            stage.score.weight.normal_()
    ours.encoder.embed.load_state_dict(layer.state_dict())
    speech, samples = torch.randn(1, 16000), torch.tensor([16000])
    found = []
    for model in (ours, other):
        with torch.no_grad():
            _, lengths = model.encode(speech, samples)
        trace = model.encoder.embed.take_trace()
        found.append(frame_times(model, trace, 16000, 16000, int(lengths[0])))
    for times in found:
        assert times.known and len(times.boundaries) == 27
        assert times.boundaries[0] == 0.0 and times.boundaries[-1] == 1.0
    assert np.array_equal(found[0].boundaries, found[1].boundaries)
    assert np.abs(found[0].boundaries - found[0].windows).max() > 0.02


# ------------------------------------------------------------------ one line
@pytest.mark.parametrize(
    "conf, words",
    [
        ({"block_type": "adastrid"}, "'adastrid'.*adastride"),
        ({"block_type": "adastride", "strid": 8}, "input_conf: .*'strid'.*stride"),
        ({"block_type": "adastride", "vgg_like": True}, "'vgg_like'"),
        ({"block_type": "adastride", "stride": 0.5}, "input_conf: .*0.5"),
        ({"block_type": "adastride", "input_size": 80}, "input_conf: .*'input_size'"),
        ({"block_type": "adastride", "after_blocks": [0, 1]}, "after_blocks"),
        ({"block_type": "adastride", "restore": True}, "restore.*asr_rnnt.yaml"),
    ],
)
def test_wrong_words_are_refused_in_one_line(conf, words):
    with pytest.raises(ConfigurationError, match=words) as error:
        build(**conf)
    assert "\n" not in str(error.value) and "input_layer_conf" not in str(error.value)


def test_words_of_other_tasks_are_refused_with_those_of_this_one():
    kind = espnet.asr_transducer_task.Encoder
    with pytest.raises(
        ConfigurationError, match="{block_type: adastride_f, stride: 8}"
    ) as error:
        kind(
            40,
            body_conf=[dict(CONFORMER)],
            input_layer="adastride_f",
            input_layer_conf={"stride": 8},
        )
    assert "\n" not in str(error.value)


def test_what_does_not_go_with_blocks_is_refused():
    with pytest.raises(ConfigurationError, match="block 1 is a conv1d.*true_times"):
        build([CONV1D, CONFORMER], block_type="adastride", true_times=True)
    with pytest.raises(ConfigurationError, match="streaming"):
        build(main_conf={"dynamic_chunk_training": True}, block_type="adastride")
    with pytest.raises(ConfigurationError, match="hidden_size"):
        build([{"block_type": "conformer"}], block_type="adastride")


def test_streaming_is_refused_in_one_line():
    encoder = build(block_type="adastride").encoder
    with pytest.raises(ConfigurationError, match="--streaming") as error:
        encoder.reset_cache(8, "cpu")
    line = str(error.value)
    assert "\n" not in line and "block_type: adastride does not stream in" in line
    assert "docs/streaming.md" in line
    build(conv_size=8).encoder.reset_cache(8, "cpu")  # ESPnet's own


# ------------------------------------------------------------------ the loss
def forward_algorithm(logits, targets):
    """Return -log P(targets) of one utterance: (T, U + 1, V) logits, blank 0."""
    log_probs = torch.log_softmax(logits, dim=-1)
    frames, slots, _ = logits.shape
    alpha = torch.full((frames, slots), -torch.inf, dtype=logits.dtype)
    alpha[0, 0] = 0.0
    for t in range(frames):
        for u in range(slots):
            ways = [alpha[t, u]]
            if t:
                ways.append(alpha[t - 1, u] + log_probs[t - 1, u, 0])
            if u:
                ways.append(alpha[t, u - 1] + log_probs[t, u - 1, targets[u - 1]])
            alpha[t, u] = torch.logsumexp(torch.stack(ways), dim=0)
    return -(alpha[-1, -1] + log_probs[-1, -1, 0])


def test_the_loss_is_that_of_the_forward_algorithm():
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 4, 5, requires_grad=True)
    targets = torch.tensor([[1, 2, 2], [3, 1, 0]])
    frames, lengths = torch.tensor([6, 4]), torch.tensor([3, 2])
    found = RNNTLoss(reduction="none")(logits, targets, frames, lengths)
    slow = [
        forward_algorithm(
            logits[i, : frames[i], : lengths[i] + 1].double(), targets[i].tolist()
        )
        for i in range(2)
    ]
    torch.testing.assert_close(found.double(), torch.stack(slow), atol=1e-5, rtol=1e-5)
    mean = RNNTLoss()(logits, targets, frames, lengths)
    torch.testing.assert_close(mean, found.mean())
    mine = torch.autograd.grad(torch.stack(slow).mean(), logits)[0]
    theirs = torch.autograd.grad(mean, logits)[0]
    torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=1e-5)


def test_fastemit_needs_the_package_itself():
    model = build(block_type="adastride", model={"fastemit_lambda": 0.01})
    with pytest.raises(ConfigurationError, match=PACKAGE) as error:
        model(**batch())
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ a training
CONFIG = """\
encoder_conf:
    input_conf: {block_type: adastride, stride: 4, true_times: true}
    body_conf:
    - block_type: conformer
      hidden_size: 32
      linear_size: 32
      conv_mod_kernel_size: 7
      heads: 2
decoder: rnn
decoder_conf: {rnn_type: lstm, num_layers: 1, embed_size: 16, hidden_size: 16}
joint_network_conf: {joint_space_size: 32}
model_conf: {auxiliary_ctc_weight: 0.3}
frontend_conf: {fs: 8k, n_fft: 256, hop_length: 80, n_mels: 20}
normalize: utterance_mvn
batch_type: sorted
batch_size: 16
num_workers: 0
num_att_plot: 1
use_tensorboard: false
max_epoch: 40
keep_nbest_models: 3
best_model_criterion: [[valid, loss, min]]
optim: adam
optim_conf: {lr: 0.01}
seed: 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train by ESPnet's command; return the experiment's folder and the corpus."""
    folder = tmp_path_factory.mktemp("transducer")
    corpus, exp = folder / "corpus", folder / "exp"
    write_corpus(corpus)
    (folder / "train.yaml").write_text(CONFIG)
    words = ["--config", str(folder / "train.yaml"), "--output_dir", str(exp)]
    words += ["--token_type", "char", "--token_list", str(corpus / "tokens")]
    for part in ("train", "valid"):
        words += [f"--{part}_shape_file", str(corpus / part / "shape")]
        flag = f"--{part}_data_path_and_name_and_type"
        words += [flag, f"{corpus / part / 'wav.scp'},speech,sound"]
        words += [flag, f"{corpus / part / 'text'},text,text"]
    run.main(["-m", "espnet2.bin.asr_transducer_train", *words])
    return exp, corpus


def decode(exp, scp, folder, *options):
    """Decode by ESPnet's command; return its folder of transcripts."""
    words = ["--asr_train_config", str(exp / "config.yaml"), "--num_workers", "0"]
    words += ["--asr_model_file", str(exp / "valid.loss.ave.pth")]
    words += ["--data_path_and_name_and_type", f"{scp},speech,sound"]
    words += ["--output_dir", str(folder), *options]
    run.main(["-m", "espnet2.bin.asr_transducer_inference", *words])
    return folder / "1best_recog"


def texts(path):
    lines = path.read_text().splitlines()
    return {key: text for key, _, text in (line.partition(" ") for line in lines)}


def errors(said, heard):
    """Return the edit distance of two strings."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            last, row[j] = row[j], min(
                row[j] + 1, row[j - 1] + 1, last + (one != other)
            )
    return row[-1]


def test_it_learns(trained):
    exp, _ = trained
    saved = torch.load(exp / "checkpoint.pth", weights_only=False)
    first, last = (saved["reporter"]["stats"][n]["train"] for n in (1, 40))
    assert last["loss_transducer"] < 0.2 * first["loss_transducer"]
    assert last["loss_vp"] >= 0 and 0 < last["largest_jump"] < 3
    scores = [v for k, v in saved["model"].items() if k.endswith("score.weight")]
    assert len(scores) == 2 and all(one.abs().max() > 0 for one in scores)
    assert list((exp / "att_ws").glob("*/strides.*ep.png"))


@pytest.mark.parametrize("beam", [1, 5])
def test_espnet_decodes_it(trained, tmp_path, beam):
    exp, corpus = trained
    found = texts(
        decode(exp, corpus / "valid/wav.scp", tmp_path, "--beam_size", str(beam))
        / "text"
    )
    said = texts(corpus / "valid" / "text")
    assert found.keys() == said.keys()
    wrong = sum(errors(said[key], found[key]) for key in said)
    assert wrong < 0.3 * sum(map(len, said.values()))


def test_what_is_too_short_gets_an_empty_transcript(trained, tmp_path):
    exp, corpus = trained
    lines = (corpus / "valid" / "wav.scp").read_text().splitlines()[:1]
    for samples in (20, 100, 300):  # below the window, for a frame, for 4 of 7
        soundfile.write(tmp_path / f"{samples}.wav", np.zeros(samples), RATE)
        lines.append(f"short{samples} {tmp_path / f'{samples}.wav'}")
    (tmp_path / "wav.scp").write_text("\n".join(lines) + "\n")
    found = texts(decode(exp, tmp_path / "wav.scp", tmp_path / "out") / "text")
    assert {found[f"short{n}"].strip() for n in (20, 100, 300)} == {""}
    assert found["valid000"].strip()


def test_streaming_stops_in_one_line(trained, tmp_path, capsys):
    exp, corpus = trained
    with pytest.raises(SystemExit) as stop:
        decode(exp, corpus / "valid/wav.scp", tmp_path, "--streaming", "true")
    last = (str(stop.value) + capsys.readouterr().err).strip().splitlines()[0]
    assert last.startswith("error: streaming: block_type: adastride")
