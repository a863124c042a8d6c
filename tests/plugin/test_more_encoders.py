"""Encoders and tasks that few recipes use: trained for a step, or refused; and which
encoder takes which option."""

import argparse
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

from espnet_adastride.errors import ConfigurationError, UserError
from espnet_adastride.plugin import espnet, long_input
from espnet_adastride.plugin.encoders import ENCODERS, EBranchformerCTCEncoder
from espnet_adastride.plugin.exporting import CTCProgram
from espnet_adastride.plugin.model import input_layer
from espnet_adastride.plugin.model_files import check_task
from espnet_adastride.plugin.register import TASKS
from espnet_adastride.plugin.streaming import why_not_streaming
from tests.plugin import test_transducer as transducer
from tests.plugin.test_model import COMMON, batch, build

TOKENS = ["<blank>", "<unk>", "<na>", "<nolang>", "<eng>", "<asr>", "a", "b", "<sos>"]
TOKENS += ["<eos>", "<sop>"]


def owsm_ctc(**conf):
    """Build a tiny OWSM-CTC."""
    options = {
        "output_size": 16,
        "attention_heads": 2,
        "num_blocks": 2,
        "cgmlp_linear_units": 16,
        "cgmlp_conv_kernel": 3,
        "use_cross_attention": [False, True],
        "interctc_layer_idx": [1],
        "interctc_use_conditioning": True,
        "input_layer": "adastride",
        **conf,
    }
    prompt = {"output_size": 16, "attention_heads": 2, "linear_units": 16}
    args = argparse.Namespace(
        **{**COMMON, "token_list": TOKENS},
        encoder="e_branchformer_ctc",
        encoder_conf=options,
        promptencoder="transformer",
        promptencoder_conf={**prompt, "num_blocks": 1},
        ctc_conf={},
        model="espnet_ctc",
        model_conf={"interctc_weight": 0.5, "ctc_asr_only": [False, True]},
        init=None,
    )
    torch.manual_seed(3)
    return espnet.s2t_ctc_task.S2TTask.build_model(args)


def owsm_batch():
    data = batch()
    data.pop("text"), data.pop("text_lengths")
    return dict(
        data,
        text=torch.tensor([[4, 5, 6, 7], [4, 5, -1, -1]]),
        text_lengths=torch.tensor([4, 2]),
        text_prev=torch.tensor([[2], [2]]),
        text_prev_lengths=torch.tensor([1, 1]),
        text_ctc=torch.tensor([[6, 7], [7, -1]]),
        text_ctc_lengths=torch.tensor([2, 1]),
        prefix=torch.tensor([[4, 5], [4, 5]]),
        prefix_lengths=torch.tensor([2, 2]),
    )


@pytest.mark.parametrize(
    "conf",
    [
        {"stride": 8},
        {"stride": 8, "method": "strided_conv"},
        {"stride": 8, "tell_strides": True, "true_times": True},
        {"stride": 8, "train_strides": [4, 12]},
    ],
)
def test_owsm_ctc_takes_a_step(conf):
    model = owsm_ctc(input_layer_conf=conf).train()
    assert type(model).__name__ == "AdaStrideS2TCTCModel"
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(6):
        torch.manual_seed(1)  # the same stride, the same dropout
        loss, stats, _ = model(**owsm_batch())
        optimiser.zero_grad()
        loss.backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None]
        assert not missing and loss.isfinite()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert ("loss_vp" in stats) == (conf.get("method") is None)


def test_owsm_ctc_puts_two_tokens_before_the_frames():
    model = owsm_ctc(input_layer_conf={"stride": 8}).eval()
    data = owsm_batch()
    words = ("text", "text_lengths", "text_ctc", "text_ctc_lengths")
    kept = {k: v for k, v in data.items() if k not in words}
    with torch.no_grad():
        (together, _), lengths = model.encode(**kept)
        alone = {k: v[1:] for k, v in kept.items()}
        alone["speech"] = alone["speech"][:, :9000]
        (one, _), length = model.encode(**alone)
    # 101 and 57 feature frames make 13 and 8
    assert lengths.tolist() == [2 + 13, 2 + 8] and length.tolist() == [2 + 8]
    assert one.size(1) == 10


@pytest.mark.parametrize("options", [{}, {"tell_strides": True, "true_times": True}])
def test_a_prefix_is_before_the_frames_and_leaves_them_alone(options):
    conf = {"stride": 4, "channels": 8, **options}
    torch.manual_seed(0)
    encoder = EBranchformerCTCEncoder(
        40, 16, input_layer="adastride", input_layer_conf=conf, attention_heads=2
    ).eval()
    layer = encoder.embed
    with torch.no_grad():
        for stage in layer.downsamplers:
            stage.score.weight.normal_()
        if layer.stride_vector is not None:
            layer.stride_vector.normal_()
    x, prefix = torch.randn(2, 50, 40), torch.randn(2, 2, 16)
    mask = (torch.arange(50) < torch.tensor([[50], [31]])).unsqueeze(1)
    with torch.no_grad():
        (plain, place), frames = layer(x, mask)
        (out, its_place), its_frames = layer(x, mask, prefix)
        unmasked = layer(x, None, prefix)
    scale = layer.out[1].xscale
    torch.testing.assert_close(out[:, :2], prefix * scale)
    torch.testing.assert_close(out[:, 2:], plain)
    assert its_frames.sum(dim=2).flatten().tolist() == [15, 10]
    assert torch.equal(its_frames[:, :, 2:], frames) and unmasked[1] is None
    if options:  # frames are at their times, the tokens one and two before 0
        torch.testing.assert_close(its_place[:, 2:], place)
        from espnet_adastride.plugin.true_times import time_encoding

        before = time_encoding(torch.tensor([[-2.0, -1.0]]), 16).float()
        torch.testing.assert_close(its_place[:1, :2], before, atol=1e-6, rtol=0)


def test_a_prefix_goes_with_chunks(monkeypatch):
    encoder = EBranchformerCTCEncoder(
        40, 16, input_layer="adastride", input_layer_conf={"true_times": True}
    ).eval()
    x, prefix = torch.randn(1, 300, 40), torch.randn(1, 2, 16)
    mask = torch.ones(1, 1, 300, dtype=torch.bool)
    with torch.no_grad():
        whole, whole_mask = encoder.embed(x, mask, prefix)
        monkeypatch.setattr(long_input, "LONG_BYTES", 1)
        monkeypatch.setattr(long_input, "CHUNK_BYTES", 4000)
        chunks, chunk_mask = encoder.embed(x, mask, prefix)
    for one, other in zip(whole, chunks):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert torch.equal(whole_mask, chunk_mask) and whole_mask.size(2) == 2 + 75


def test_stages_behind_blocks_would_shorten_the_prefix():
    with pytest.raises(ConfigurationError, match="language and task tokens") as error:
        owsm_ctc(input_layer_conf={"stride": 8, "after_blocks": [0, 0, 1]})
    assert "\n" not in str(error.value)


def test_the_default_input_layer_is_the_encoders():
    encoder = EBranchformerCTCEncoder(40, 16, attention_heads=2)
    assert type(encoder.embed).__name__ == "Conv2dSubsampling8"


@pytest.mark.parametrize("method", ["adastride", "diff_stride", "strided_conv"])
def test_multiconv_conformer_takes_a_step(method):
    model = build(
        "multiconv_conformer",
        method,
        rel_pos_type="latest",
        linear_units=16,
        cgmlp_linear_units=16,
        multicgmlp_kernel_sizes="3,5",
        multicgmlp_merge_conv_kernel=3,
        input_layer_conf={"stride": 8},
    ).train()
    loss, stats, _ = model(**batch())
    loss.backward()
    assert ("loss_vp" in stats) == (method == "adastride")
    if method == "adastride":
        scores = model.encoder.embed.downsamplers[0].score.weight
        before = scores.detach().clone()
        torch.optim.Adam(model.parameters(), lr=0.01).step()
        assert not torch.equal(scores, before)
    _, lengths = model.eval().encode(batch()["speech"], batch()["speech_lengths"])
    assert lengths.tolist() == [13, 8]


def test_multiconv_conformer_goes_with_later_stages_and_true_times():
    for conf in ({"after_blocks": [0, 1]}, {"true_times": True}):
        model = build(
            "multiconv_conformer",
            "adastride",
            rel_pos_type="latest",
            linear_units=16,
            input_layer_conf={"stride": 4, **conf},
        ).train()
        loss, stats, _ = model(**batch())
        loss.backward()
        assert loss.isfinite() and stats["loss_vp"] >= 0


# ------------------------------------------------------------------ refusals
REFUSING = [
    "longformer",
    "transformer_multispkr",
]


@pytest.mark.parametrize("encoder", REFUSING)
@pytest.mark.parametrize(
    "conf", [{}, {"input_layer_conf": {"stride": 8}}], ids=["word", "options"]
)
def test_other_encoders_refuse_in_one_line(encoder, conf):
    with pytest.raises(ConfigurationError, match=f"^encoder {encoder}: ") as error:
        build(encoder, "adastride", **conf)
    assert "\n" not in str(error.value) and "e_branchformer" in str(error.value)


def test_other_encoders_are_espnets_else():
    task = espnet.asr_task
    for word in REFUSING:
        ours = task.encoder_choices.classes[word]
        (stock,) = ours.__bases__
        assert stock.__module__.startswith("espnet2.") and ours.refuses
        assert ours.__name__ == stock.__name__
    # an encoder of ours with ESPnet's own word
    model = build("contextual_block_transformer", "conv2d", linear_units=16)
    assert type(model.encoder.embed).__name__ == "Conv2dSubsamplingWOPosEnc"


# ------------------------------------------------------------------ the table
PAGE = Path(__file__).resolve().parents[2] / "docs" / "input_layer.md"
LATER = {"stride": [2, 2], "after_blocks": [0, 1], "restore": True}
#: columns of the table: input_layer_conf, and what the line of a refusal has
COLUMNS = {
    "`after_blocks`, `restore`": (LATER, "after_blocks"),
    "`score_from_ctc`": ({**LATER, "score_from_ctc": True}, "score_from_ctc|after_b"),
    "`true_times`": ({"true_times": True}, "true_times"),
    "`tell_strides`": ({"tell_strides": True}, "tell_strides"),
    "`block`": ({"block": 0.5}, "block"),
    "`--stream`": ({"block": 0.5}, "whole utterance|the task asr"),
    "ONNX": ({}, "cannot be exported|the task asr"),
}
#: cells that are conditions: options that break them, and that meet them
CONDITIONS = {
    "`rel_pos_type: latest`": ({"rel_pos_type": "legacy"}, {"rel_pos_type": "latest"}),
    "with `block`": ({"input_layer_conf": {}}, {}),
    "without `conv1d` blocks": (
        {"body": [transducer.CONV1D, transducer.CONFORMER]},
        {"body": [transducer.CONFORMER]},
    ),
}
#: what the configurations of other tasks' models have
OTHER_TASKS = {
    "asr_transducer": vars(transducer.configuration()),
    "e_branchformer_ctc": {"encoder": "e_branchformer_ctc", "token_list": TOKENS},
}


def rows():
    """The rows of the table, {encoder: {column: cell}}."""
    section = PAGE.read_text(encoding="utf-8").split("\n## Encoders and tasks\n")[1]
    section = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", section.split("\n## ")[0])
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    head, *cells = [line.split(" | ") for line in lines]
    return {
        word: dict(zip(head, row))
        for row in cells
        for word in re.findall(r"`(\w+)`", row[0])
    }


TABLE = rows()


def of_row(word, **options):
    """A tiny model; options that are not given are ESPnet's defaults."""
    conf = options.pop("input_layer_conf")
    if word == "asr_transducer":
        return transducer.build(block_type="adastride", **conf, **options)
    if word == "e_branchformer_ctc":
        return owsm_ctc(input_layer_conf=conf, **options)
    known = inspect.signature(ENCODERS[word]).parameters
    options = {
        "linear_units": 16,
        "rel_pos_type": getattr(known.get("rel_pos_type"), "default", None),
        "interctc_layer_idx": [1],
        **options,
    }
    options = {key: value for key, value in options.items() if key in known}
    inner = {"interctc_weight": 0.3 if "interctc_layer_idx" in known else 0.0}
    return build(word, "adastride", inner, input_layer_conf=conf, **options)


def line_of(word, column, **options):
    """The line with which a row refuses a column, or None."""
    options = {"input_layer_conf": COLUMNS[column][0], **options}
    try:
        if word in OTHER_TASKS and column in ("`--stream`", "ONNX"):
            check_task(PAGE, OTHER_TASKS[word])
        model = of_row(word, **options)
        if column == "`--stream`":
            model.normalize = None
            args = argparse.Namespace(encoder=word)
            return why_not_streaming(
                argparse.Namespace(
                    model=model, layer=input_layer(model), upstream=None, args=args
                )
            )
        if column == "ONNX":
            CTCProgram(model)
            return None
        data = owsm_batch() if word == "e_branchformer_ctc" else batch()
        loss, stats, _ = model.train()(**data)
        loss.backward()
        assert loss.isfinite() and stats["loss_vp"] >= 0
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("word", TABLE)
def test_encoders_take_the_options_that_the_table_says(word, column):
    cell = TABLE[word][column]
    breaks, meets = CONDITIONS.get(cell, ({}, {}))
    if cell == "no" and word in ENCODERS and word not in OTHER_TASKS:
        breaks = {"rel_pos_type": "latest"}  # not the default, which may be the reason
    if cell != "no":
        assert cell == "yes" or cell in CONDITIONS
        assert line_of(word, column, **meets) is None
    if cell != "yes":
        line = line_of(word, column, **breaks)
        assert line and "\n" not in line and re.search(COLUMNS[column][1], line), line


def test_the_table_has_every_encoder_and_its_tasks():
    assert set(TABLE) == {*ENCODERS, "asr_transducer"}
    tasks = {word: set() for word in ENCODERS}
    for name in TASKS:
        if not name.startswith("espnet2"):
            continue  # has another's encoders
        classes = importlib.import_module(name).encoder_choices.classes
        for word, kind in ENCODERS.items():
            # ESPnet's model of s2t_ctc gives its encoder a prefix
            if classes.get(word) is kind and (kind.takes_prefix or name[-4:] != "_ctc"):
                tasks[word].add(name.rpartition(".")[2])
    for word, found in tasks.items():
        assert set(TABLE[word]["tasks"].split(", ")) == found, word
