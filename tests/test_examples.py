"""The examples train for an epoch on tones; all tasks report the positioning loss."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
from espnet_adastride.errors import UserError
from espnet_adastride.plugin.espnet import espnet3_asr_task
from espnet_adastride.transcribe import Transcriber
from tests.plugin.frontend_models import CASES

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 1}
WORDS = ["<blank>", "<unk>", "low", "high", "<sos/eos>"]
S2T_WORDS = [
    "<blank>",
    "<unk>",
    "<na>",
    "<en>",
    "<asr>",
    "<notimestamps>",
    "low",
    "high",
]
S2T_WORDS += [f"<{0.02 * i:.2f}>" for i in range(76)] + ["<sos>", "<eos>", "<sop>"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight tones with every text that a task may want, and token lists."""
    folder = tmp_path_factory.mktemp("tones")
    lines = {"wav.scp": [], "text": [], "label": [], "owsm": [], "na": []}
    for index in range(8):
        word = WORDS[2 + index % 2]
        tone = 200.0 * (1 + 3 * (index % 2))
        steps = np.arange(12000 + 800 * index) / 16000
        soundfile.write(
            folder / f"{index}.wav", 0.3 * np.sin(steps * tone * 6.3), 16000
        )
        lines["wav.scp"].append(f"u{index} {folder / f'{index}.wav'}")
        lines["text"].append(f"u{index} {word} {word}")
        lines["label"].append(f"u{index} {word}")
        lines["owsm"].append(f"u{index} x <en> <asr> <0.00> {word} <0.50>")
        lines["na"].append(f"u{index} <na>")
    for name, content in lines.items():
        (folder / name).write_text("\n".join(content) + "\n")
    (folder / "tokens").write_text("\n".join(WORDS) + "\n")
    (folder / "s2t_tokens").write_text("\n".join(S2T_WORDS) + "\n")
    (folder / "classes").write_text("low\nhigh\n<unk>\n")
    (folder / "shape").write_text(
        "".join(f"u{i} {12000 + 800 * i}\n" for i in range(8))
    )
    return folder


def small(config, folder):
    """Write the example's configuration with smaller layers; return its path."""
    conf = yaml.safe_load((EXAMPLES / config).read_text())
    if config == "asr_transducer.yaml":
        assert conf["encoder_conf"]["input_conf"]["block_type"] == "adastride"
        (block,) = conf["encoder_conf"]["body_conf"]
        block.update(hidden_size=16, linear_size=16, heads=2, num_blocks=1)
        conf["decoder_conf"].update(embed_size=16, hidden_size=16)
        conf["joint_network_conf"]["joint_space_size"] = 16
    else:
        assert conf["encoder_conf"]["input_layer"] == "adastride"
        conf["encoder_conf"].update(SMALL)
    if conf["decoder"] == "transformer":
        conf["decoder_conf"] = {"linear_units": 16, "num_blocks": 1}
    if conf["decoder"] == "transducer":
        conf["decoder_conf"]["hidden_size"] = 16
        conf["joint_net_conf"]["joint_space_size"] = 16
    if config == "s2t.yaml":
        conf["preprocessor_conf"]["speech_length"] = 1.5
        conf["preprocessor_conf"]["last_time_symbol"] = "<1.50>"
    path = folder / config
    path.write_text(yaml.safe_dump(conf))
    return path


TASKS = {
    "asr_rnnt": ("asr_train", "tokens", {"text": "text"}),
    "asr_transducer": ("asr_transducer_train", "tokens", {"text": "text"}),
    "st": ("st_train", "tokens", {"text": "text"}),
    "slu": ("slu_train", "tokens", {"text": "text"}),
    "s2t": (
        "s2t_train",
        "s2t_tokens",
        {"text": "owsm", "text_prev": "na", "text_ctc": "text"},
    ),
    "cls": ("cls_train", "classes", {"label": "label"}),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains(name, data, tmp_path):
    tool, tokens, texts = TASKS[name]
    command = ["--config", str(small(f"{name}.yaml", tmp_path)), "--max_epoch", "1"]
    command += ["--output_dir", str(tmp_path / "exp"), "--token_type", "word"]
    command += ["--token_list", str(data / tokens), "--ngpu", "0", "--num_workers", "0"]
    command += ["--batch_bins", "60000", "--use_tensorboard", "false"]
    if name == "st":
        command += ["--src_token_type", "word"]
        command += ["--src_token_list", str(data / tokens)]
    for part in ("train", "valid"):
        command += [f"--{part}_shape_file", str(data / "shape")]
        flag = f"--{part}_data_path_and_name_and_type"
        command += [flag, f"{data / 'wav.scp'},speech,sound"]
        for entry, file in texts.items():
            command += [flag, f"{data / file},{entry},text"]
    importlib.import_module(f"espnet2.bin.{tool}").main(command)
    saved = torch.load(tmp_path / "exp" / "checkpoint.pth", weights_only=False)
    stats = saved["reporter"]["stats"][1]["train"]
    assert stats["loss_vp"] >= 0 and 0 < stats["largest_jump"] < 2
    assert np.isfinite(stats["loss"])
    scores = [v for k, v in saved["model"].items() if k.endswith("score.weight")]
    # the scores start at 0, and have learned; in s2t the last stage alone has some
    assert len(scores) == (1 if name == "s2t" else 2)
    assert all(one.abs().max() > 0 for one in scores)


@pytest.mark.parametrize("case", ["wavlm", "s3prl", "s3prl_stand_in"])
def test_behind_a_pretrained_frontend(case, data, tmp_path, monkeypatch):
    """The example with a tiny model trains, and its transcripts have true times."""
    options = CASES[case](tmp_path / "upstream", monkeypatch)
    path = small("asr_pretrained.yaml", tmp_path)
    conf = yaml.safe_load(path.read_text())
    assert conf["preencoder"] == options["preencoder"] == "linear"
    part = {"huggingface": "encoder", "s3prl": "upstream"}[options["frontend"]]
    conf.update(options, freeze_param=[f"frontend.{part}"])
    path.write_text(yaml.safe_dump(conf))
    command = ["--config", str(path), "--max_epoch", "1", "--token_type", "word"]
    command += ["--output_dir", str(tmp_path / "exp"), "--ngpu", "0"]
    command += ["--token_list", str(data / "tokens"), "--num_workers", "0"]
    command += ["--batch_bins", "60000", "--use_tensorboard", "false"]
    for name in ("train", "valid"):
        command += [f"--{name}_shape_file", str(data / "shape")]
        flag = f"--{name}_data_path_and_name_and_type"
        command += [flag, f"{data / 'wav.scp'},speech,sound"]
        command += [flag, f"{data / 'text'},text,text"]
    importlib.import_module("espnet2.bin.asr_train").main(command)
    saved = torch.load(tmp_path / "exp" / "checkpoint.pth", weights_only=False)
    stats = saved["reporter"]["stats"][1]["train"]
    assert np.isfinite(stats["loss"]) and stats["loss_vp"] >= 0
    scores = [v for k, v in saved["model"].items() if k.endswith("score.weight")]
    assert len(scores) == 2 and all(one.abs().max() > 0 for one in scores)
    transcriber = Transcriber(tmp_path / "exp", asr_model_file="1epoch.pth")
    wave, rate = soundfile.read(data / "0.wav", dtype="float32")
    times = transcriber.trained.encode(wave).times
    # 12000 samples: 36 frames of 20 ms (37 of S3PRL's, or 38), to 18 or 19, to 9 or 10
    assert times.known and len(times.boundaries) - 1 in (9, 10)
    assert times.boundaries[-1] == 0.75
    words = transcriber.align(wave, "low low").words
    assert 0 <= words[0].start < words[0].end <= words[1].end <= 0.75


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["recognise", "espnetez_train"])
def test_a_script_without_its_arguments_prints_its_help(name):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--help"],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and f"    python examples/{name}.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_espnetez_without_it_and_unknown_options(monkeypatch):
    module = load("espnetez_train")
    monkeypatch.setattr(module, "espnetez", None)
    with pytest.raises(UserError, match="espnetez is not installed: ESPnet 202511"):
        module.main("data", "tokens", "exp")
    monkeypatch.setattr(module, "espnetez", SimpleNamespace(config=module))
    monkeypatch.setattr(module, "from_yaml", lambda *_: {"max_epoch": 3}, raising=False)
    for option, words in (
        ("max_epochs=2", "max_epochs: no option of asr_train .*'max_epoch'"),
        ("max_epoch", "max_epoch: write OPTION=VALUE"),
    ):
        with pytest.raises(UserError, match=words):
            module.main("data", "tokens", "exp", option)


def test_speech2text_gets_one_channel_at_the_models_rate(tmp_path, monkeypatch, capsys):
    heard = []

    def stand_in(**_):
        def recognise(wave):
            heard.append(wave.shape)
            return [("low", [], [], None)]

        recognise.asr_train_args = SimpleNamespace(frontend_conf={"fs": "8k"})
        return recognise

    module = load("recognise")
    monkeypatch.setattr(module, "Speech2Text", stand_in)
    soundfile.write(tmp_path / "x.wav", np.full((4410, 2), 0.1), 44100)
    module.main("exp", str(tmp_path / "x.wav"))
    assert heard == [(800,)]
    assert capsys.readouterr().out == f"{tmp_path}/x.wav: low\n"


def test_espnetez_trains_and_speech2text_recognises(data, tmp_path, capsys):
    pytest.importorskip("espnetez", reason="ESPnet-EZ: 202511 has it, 202611 has not")
    for part in ("train", "valid"):
        (tmp_path / part).mkdir()
        for name in ("wav.scp", "text"):
            (tmp_path / part / name).write_text((data / name).read_text())
    conf = yaml.safe_load(small("asr.yaml", tmp_path).read_text())
    options = [
        f"{k}={yaml.safe_dump(conf[k], default_flow_style=True).strip()}"
        for k in ("encoder_conf", "decoder_conf")
    ]
    options += ["max_epoch=2", "use_tensorboard=false", "batch_bins=60000"]
    exp = tmp_path / "exp"
    load("espnetez_train").main(str(tmp_path), str(data / "tokens"), str(exp), *options)
    load("recognise").main(str(exp / "model"), str(data / "0.wav"), str(data / "1.wav"))
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if line.startswith(str(data))]
    assert len(said) == 2
    words = {word for line in said for word in line.partition(": ")[2].split()}
    assert words <= {"low", "high", "<unk>"}


# ------------------------------------------------------------------ ESPnet3
def espnet3_recipe(folder, data):
    """Copy the recipe, made small; write its data."""
    shutil.copytree(EXAMPLES / "espnet3", folder / "recipe")
    for part, keys in (("train", range(8)), ("valid", range(4)), ("test", range(2))):
        (folder / "data" / part).mkdir(parents=True)
        for name in ("wav.scp", "text"):
            lines = (data / name).read_text().splitlines()
            chosen = "".join(f"{lines[key]}\n" for key in keys)
            (folder / "data" / part / name).write_text(chosen)
    path = folder / "recipe" / "conf" / "training.yaml"
    conf = yaml.safe_load(path.read_text())
    conf["tokenizer"]["vocab_size"] = 12
    conf["model"]["encoder_conf"].update(SMALL)
    conf["model"]["decoder_conf"] = {"linear_units": 16, "num_blocks": 1}
    conf["trainer"]["max_epochs"] = 2
    conf["best_model_criterion"] = [["valid/loss", 1, "min"]]
    conf["dataloader"]["train"]["iter_factory"]["batches"]["batch_bins"] = 30000
    path.write_text(yaml.safe_dump(conf))
    path = folder / "recipe" / "conf" / "inference.yaml"
    path.write_text(path.read_text().replace("ave_3best", "ave_1best"))
    return folder / "recipe"


@pytest.mark.slow
@pytest.mark.skipif(espnet3_asr_task is None, reason="ESPnet3 came with 202611")
def test_espnet3_trains_and_recognises(data, tmp_path):
    """Its statistics and its decoding are made in workers, which are spawned."""
    recipe = espnet3_recipe(tmp_path, data)
    stages = "create_dataset train_tokenizer collect_stats train infer".split()
    done = subprocess.run(
        [sys.executable, "run.py", "--stages", *stages]
        + ["--training_config", "conf/training.yaml"]
        + ["--inference_config", "conf/inference.yaml"],
        cwd=recipe,
        env={
            **os.environ,
            "DATA": str(tmp_path / "data"),
            "PYTHONPATH": str(Path(espnet_adastride.plugin.__file__).parents[2]),
        },
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    exp = recipe / "exp" / "training"
    log = (exp / "train.log").read_text()
    assert "loss_vp=" in log and "largest_jump=" in log
    state = torch.load(exp / "valid.loss.ave_1best.pth", weights_only=True)
    scores = [value for key, value in state.items() if key.endswith("score.weight")]
    assert len(scores) == 2 and all(one.abs().max() > 0 for one in scores)
    lines = (exp / "inference" / "test" / "text.scp").read_text().splitlines()
    assert len(lines) == 2
    # our commands read what it trained: the average, and Lightning's checkpoints
    (checkpoint,) = exp.glob("epoch*_valid.loss.ckpt")
    for file in (None, checkpoint.name):
        transcriber = Transcriber(exp, asr_model_file=file)
        assert transcriber.trained.describe_strides() == "adastride, 4x"
        assert transcriber(str(data / "0.wav")).duration == pytest.approx(0.75)


@pytest.mark.skipif(espnet3_asr_task is None, reason="ESPnet3 came with 202611")
def test_espnet3_ignores_no_key_of_the_model():
    conf = yaml.safe_load((EXAMPLES / "espnet3" / "conf" / "training.yaml").read_text())
    known = vars(espnet3_asr_task.ASRTask.get_parser().parse_args([]))
    assert set(conf["model"]) <= set(known)
    # what train_tokenizer reads
    read = {"vocab_size", "model_type", "save_path", "text_builder"}
    assert set(conf["tokenizer"]) == read


@pytest.mark.skipif(espnet3_asr_task is None, reason="ESPnet3 came with 202611")
def test_espnet3_data_of_another_rate_and_empty_texts(tmp_path):
    path = EXAMPLES / "espnet3" / "dataset" / "__init__.py"
    spec = importlib.util.spec_from_file_location("example_dataset", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "text").write_text("a  two words\n\nb\n")
    names = {key: tmp_path / f"{key}  1.wav" for key in "ab"}
    for (key, name), rate in zip(names.items(), (16000, 8000)):
        soundfile.write(name, np.zeros(80), rate)
    lines = [f"{key} {name}\n" for key, name in names.items()]
    (folder / "wav.scp").write_text("".join(lines))
    items = module.Dataset("test", tmp_path)
    assert items[0]["text"] == "two words" and items[0]["speech"].shape == (80,)
    assert items.items[1] == (str(names["b"]), "")
    with pytest.raises(ValueError, match="b  1.wav: convert it to one channel at 16"):
        items[1]


@pytest.mark.skipif(espnet3_asr_task is None, reason="ESPnet3 came with 202611")
def test_espnet3_has_the_plugins_encoders_and_model():
    from espnet_adastride.plugin import encoders, model

    choices = espnet3_asr_task.encoder_choices.classes
    assert choices["e_branchformer"] is encoders.EBranchformerEncoder
    assert choices["multiconv_conformer"] is encoders.MultiConvConformerEncoder
    assert choices["longformer"].refuses
    models = espnet3_asr_task.model_choices.classes
    assert models["espnet"] is model.AdaStrideASRModel
    assert models["maskctc"] is model.AdaStrideMaskCTCModel
    assert models["pit_espnet"].refuses
