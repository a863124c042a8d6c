"""Transcribing and aligning with tiny untrained models, and with one whose frames are
known: what is written, what is refused, and in which words."""

import json
import logging
import os
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

pytest.importorskip("espnet2")

from espnet2.main_funcs.pack_funcs import pack  # noqa: E402
from espnet2.tasks.asr import ASRTask  # noqa: E402

import media  # noqa: E402
from espnet_adastride import memory  # noqa: E402
from espnet_adastride.bin import (  # noqa: E402
    align,
    asr_inference_ctc,
    plot,
    transcribe,
    unpack_model,
)
from espnet_adastride.corpora.lengths import TrainingLengths  # noqa: E402
from espnet_adastride.corpora.tokens import train_bpe  # noqa: E402
from espnet_adastride.errors import AudioError  # noqa: E402
from espnet_adastride.errors import (  # noqa: E402
    ConfigurationError,
    ModelError,
    UserError,
)
from espnet_adastride.files import check_folder  # noqa: E402
from espnet_adastride.plugin import model_files, trained  # noqa: E402
from espnet_adastride.plugin.frame_times import FrameTimes  # noqa: E402
from espnet_adastride.plugin.greedy import CTCGreedy  # noqa: E402
from espnet_adastride.plugin.packing import pack_model  # noqa: E402
from espnet_adastride.timing.ctc import force_align, path_spans  # noqa: E402
from espnet_adastride.timing.transcripts import read_ctm  # noqa: E402
from espnet_adastride.transcribe import Transcriber  # noqa: E402
from tiny_models import RATE, TOKENS, make_experiment  # noqa: E402

MODEL = "valid.acc.ave.pth"


def noise(seconds, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    # loud and faint parts in turn: the strides follow the energy
    level = np.where(np.sin(2 * np.pi * time) > 0, 0.2, 0.002)
    return (rng.standard_normal(len(time)) * level).astype(np.float32)


@pytest.fixture(autouse=True)
def log_level():
    """The commands set it for their process, which is the tests'."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("recipe") / "exp")


@pytest.fixture(scope="module")
def transcriber(exp):
    return Transcriber(exp)


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "some recordings"
    (folder / "in").mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(2.0), RATE)
    stereo = np.stack([noise(1.0, 1)] * 2, axis=1)
    soundfile.write(folder / "in" / "b.flac", stereo, 2 * RATE)
    (folder / "notes.txt").write_text("no audio")
    return folder


class Known(trained.TrainedModel):
    """A model that hears what it is told, frame by frame."""

    def __init__(self, path, boundaries, search=None):
        self.rate, self.search, self.path = RATE, search, path
        self.boundaries = np.array(boundaries)
        self.model = SimpleNamespace(blank_id=0, token_list=TOKENS, ctc=True)
        self.args = SimpleNamespace(token_type="char")
        self.tokenizer = trained.build_tokenizer("char")
        self.converter = trained.TokenIDConverter(TOKENS)
        self._preprocess = self.layer = None
        self.lock = threading.Lock()

    def encode(self, wave, name="", times=True):
        log_probs = torch.full((len(self.path), len(TOKENS)), -9.0)
        log_probs[range(len(self.path)), self.path] = -0.5
        uniform = np.linspace(0, self.boundaries[-1], len(self.boundaries))
        return trained.Encoded(
            None, log_probs, FrameTimes(self.boundaries, uniform, uniform)
        )


# ------------------------------------------------------------ what is returned


def test_words_and_times_of_known_frames():
    # _ A A B <space> _ B, at times that are no constant apart
    model = Known([0, 3, 3, 4, 2, 0, 4], [0.0, 0.1, 0.15, 0.3, 0.7, 1.0, 1.1, 2.0])
    result = Transcriber(model)(noise(2.0), name="x")
    assert (result.text, result.duration, result.silent) == ("AB B", 2.0, False)
    assert [w[:3] for w in result.words] == [("AB", 0.1, 0.7), ("B", 1.1, 2.0)]
    assert result.words[0].score == pytest.approx(np.exp(-0.5))
    (segment,) = result.segments
    assert [t.text for t in segment.tokens] == ["A", "B", "<space>", "B"]
    assert segment.times == "ctc"


def test_two_spaces_in_a_row_are_one():
    for search in (None, lambda wave: [("", ["A", "<space>", "<space>", "B"])]):
        model = Known([3, 2, 0, 2, 4], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], search)
        result = Transcriber(model)(noise(0.5))
        assert result.text == result.segments[0].text == "A B"
        assert [w[:3] for w in result.words] == [("A", 0.0, 0.1), ("B", 0.4, 0.5)]


def test_segments_follow_one_another_in_time():
    model = Known([3, 0], [0.0, 0.5, 1.0])
    wave = np.concatenate([noise(3.0), np.zeros(5 * RATE, np.float32)])
    result = Transcriber(model, max_segment=2.0)(wave)
    assert result.segments[0].start == 0 and result.segments[-1].end == 8.0
    assert all(a.end == b.start for a, b in zip(result.segments, result.segments[1:]))
    heard = [s for s in result.segments if s.text]
    assert [w.start for w in result.words] == [s.start for s in heard]
    # what is digitally silent is not decoded
    assert len(heard) < len(result.segments) and result.segments[-1].words == []
    assert result.text == " ".join(["A"] * len(heard))
    assert Transcriber(model)(np.zeros(RATE)).silent


def test_a_search_is_timed_by_forced_alignment_or_says_that_it_is_not():
    def search(tokens):
        return lambda wave: [("ignored", tokens, None, None)]

    path, boundaries = [3, 0, 2, 4], [0.0, 0.5, 1.0, 1.5, 2.0]
    model = Known(path, boundaries, search(["A", "<space>", "B"]))
    result = Transcriber(model)(noise(2.0))
    assert [w[:3] for w in result.words] == [("A", 0.0, 0.5), ("B", 1.5, 2.0)]
    # five tokens do not fit in four frames
    model = Known(path, boundaries, search(["A", "B", "A", "<space>", "B"]))
    result = Transcriber(model)(noise(2.0))
    assert result.text == "ABA B" and result.segments[0].times == "spread"
    assert [w[:3] for w in result.words] == [("ABA", 0.0, 1.5), ("B", 1.5, 2.0)]


def test_alignment_of_known_frames():
    model = Known([0, 3, 0, 2, 4, 0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.2])
    segment = Transcriber(model).align(noise(1.2), "A  B")
    assert [w[:3] for w in segment.words] == [("A", 0.1, 0.2), ("B", 0.4, 0.5)]
    segment = Transcriber(model).align(noise(1.2), "A B", uniform=True)
    assert [w.start for w in segment.words] == pytest.approx([0.2, 0.8])
    with pytest.raises(ModelError, match="2 of 3 tokens are unknown.* like A B"):
        Transcriber(model).align(noise(1.2), "Abc")


def test_the_same_as_greedy_ctc_decoding(exp, transcriber):
    model, args = ASRTask.build_model_from_file(exp / "config.yaml", exp / MODEL)
    wave = noise(2.0)
    ((text, tokens, *_),) = CTCGreedy(model, args)(
        torch.from_numpy(wave)[None], torch.tensor([len(wave)])
    )
    result = transcriber(wave)
    assert result.text == " ".join(text.split()) or result.text == text.strip()
    assert [t.text for t in result.segments[0].tokens] == tokens and tokens
    ends = [t.end for t in result.segments[0].tokens]
    assert ends == sorted(ends) and ends[-1] <= 2.0


def test_paths_arrays_and_rates_are_alike(transcriber, tmp_path):
    wave = noise(1.0)
    soundfile.write(tmp_path / "x.wav", wave, RATE, subtype="FLOAT")
    one, two = transcriber(tmp_path / "x.wav"), transcriber(wave)
    assert one.words == two.words and one.name == str(tmp_path / "x.wav")
    assert transcriber(np.repeat(wave, 2), rate=2 * RATE).duration == 1.0
    with pytest.raises(AudioError, match="too short for this model: 3 frames.* 7"):
        transcriber(noise(200 / RATE), name="x")
    with pytest.raises(AudioError, match="x: too short for this model: 100 samples"):
        transcriber(noise(100 / RATE), name="x")
    with pytest.raises(ValueError, match="max_segment"):
        Transcriber(transcriber.trained, max_segment=0)


def test_greedy_decoding_at_another_stride(exp, tmp_path, capsys):
    wave = noise(2.0)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")

    def decoded(name, *words):
        asr_inference_ctc.main(
            ["--asr_train_config", str(exp / "config.yaml")]
            + ["--asr_model_file", str(exp / MODEL), "--num_workers", "0"]
            + ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"]
            + ["--output_dir", str(tmp_path / name), *words]
        )
        score = tmp_path / name / "1best_recog" / "score"
        return float(score.read_text().split()[1])

    # the score is a sum over frames: it tells how many there were, and which
    at_six = Transcriber(exp, stride=6).trained
    speech = torch.from_numpy(at_six.prepare_wave(wave))[None]
    (_, _, _, score, *_), *_ = CTCGreedy(at_six.model, at_six.args)(
        speech, torch.tensor([len(wave)])
    )
    assert decoded("six", "--stride", "6") == pytest.approx(score, rel=1e-4)
    assert decoded("own") != pytest.approx(score, rel=1e-2)
    with pytest.raises(SystemExit):
        decoded("none", "--stride", "0.5")
    assert "--stride: '0.5': give a number from 1 to" in capsys.readouterr().err


def test_another_stride(exp, transcriber):
    other = Transcriber(exp, stride=7.5)
    wave = noise(2.0)  # 201 feature frames
    frames = [len(t.trained.encode(wave).log_probs) for t in (transcriber, other)]
    assert frames == [51, 28]  # 2 sqrt(7.5 / 4) a stage: 201 -> 74 -> 28
    times = other.trained.encode(wave).times
    assert len(times.boundaries) == 29 and times.boundaries[-1] == 2.0


# ------------------------------------------------------------ which models


def test_models_without_positions_and_without_ctc(tmp_path):
    stock = make_experiment(tmp_path / "stock", "conv2d")
    result = Transcriber(stock)(noise(1.0))
    assert result.segments[0].times == "ctc" and result.duration == 1.0
    with pytest.raises(ConfigurationError, match="input_layer is conv2d, whose rate"):
        Transcriber(stock, stride=6)
    attention = make_experiment(tmp_path / "attention", model_conf={"ctc_weight": 0.0})
    search = {"ctc_weight": 0.0, "beam_size": 1, "maxlenratio": 0.2}
    result = Transcriber(attention, inference_config=search)(noise(0.5))
    assert result.segments[0].times == "spread"
    assert Transcriber(attention).trained.search is not None
    with pytest.raises(SystemExit, match="no CTC branch"):
        soundfile.write(tmp_path / "x.wav", noise(0.5), RATE)
        align.main(
            ["--model", str(attention), "--audio", str(tmp_path / "x.wav"), "--text"]
            + ["A", "--output_dir", str(tmp_path / "out")]
        )


def test_a_beam_wider_than_the_vocabulary(exp, tmp_path):
    config = tmp_path / "decode.yaml"
    config.write_text("maxlenratio: 0.3\n")  # with ESPnet's beam
    line = "decode.yaml: beam_size is 20 .*has 6 tokens; give beam_size: 6 or less"
    with pytest.raises(ConfigurationError, match=line):
        Transcriber(exp, inference_config=config)
    search = {"beam_size": 6, "maxlenratio": 0.3}
    assert Transcriber(exp, inference_config=search)(noise(0.5)).segments
    attention = make_experiment(tmp_path / "attention", model_conf={"ctc_weight": 0.0})
    assert Transcriber(attention)(noise(0.5)).segments[0].times == "spread"


def test_beam_search(exp, tmp_path):
    config = tmp_path / "decode.yaml"
    config.write_text("{beam_size: 2, ctc_weight: 0.5, maxlenratio: 0.3, ngpu: 0}")
    result = Transcriber(exp, inference_config=config)(noise(0.5))
    assert result.segments[0].times in ("ctc", "spread")
    config.write_text("beam_siz: 2")
    with pytest.raises(ConfigurationError, match="decode.yaml: unknown key 'beam_siz'"):
        Transcriber(exp, inference_config=config)
    config.write_text("[1]")
    with pytest.raises(ConfigurationError, match="give options"):
        Transcriber(exp, inference_config=config)
    # PyYAML reads 5e-1 as a string
    config.write_text("{beam_size: 2, ctc_weight: 5e-1, maxlenratio: 0.3}")
    assert Transcriber(exp, inference_config=config)(noise(0.5)) == result._replace(
        name="the recording"
    )
    for word, value, fix in (
        ("beam_size", 0, "'0': give a whole number, 1 or more"),
        ("beam_size", 2.5, "'2.5': give a whole number, 1 or more"),
        ("ctc_weight", float("nan"), "'nan': give a number from 0 to 1"),
        ("ctc_weight", 3, "'3': give a number from 0 to 1"),
        ("lm_weight", "inf", "'inf': give a number"),
        ("penalty", None, "'None': give a number"),
    ):
        with pytest.raises(ConfigurationError) as error:
            Transcriber(exp, inference_config={"beam_size": 2, word: value})
        assert str(error.value) == f"inference_config: {word}: {fix}"
    for word, value in (
        ("dtype", "float64"),
        ("dtype", ["float16"]),
        ("quantize_asr_model", True),
        ("streaming", True),
    ):
        with pytest.raises(ConfigurationError) as error:
            Transcriber(exp, inference_config={"beam_size": 2, word: value})
        assert str(error.value).startswith(f"inference_config: {word}")
        assert "is not supported here; leave it out" in str(error.value)
    options = {
        "beam_size": 2,
        "ctc_weight": 0.5,
        "maxlenratio": 0.3,
        "dtype": "float32",
    }
    assert Transcriber(exp, inference_config=options)(noise(0.5)).text == result.text


def test_a_packed_model(exp, transcriber, tmp_path, monkeypatch):
    monkeypatch.chdir(exp.parent)
    archive = tmp_path / "model.zip"
    pack(
        {"asr_model_file": exp / MODEL}, {"asr_train_config": exp / "config.yaml"},
        archive,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    wave = noise(1.0)
    assert Transcriber(archive)(wave).words == transcriber(wave).words
    assert sorted(os.listdir(tmp_path)) == before
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    assert Transcriber(tmp_path / "unpacked")(wave).words == transcriber(wave).words


def test_a_packed_model_with_pieces_of_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentences = ["THE CATS SAT", "THE MAT THAT SAT", "A CAT AT THE MATS"] * 4
    pieces = train_bpe(sentences, tmp_path, 16, "unigram", 1.0)
    make_experiment(
        tmp_path / "exp" / "asr",
        token_type="bpe",
        bpemodel="bpe.model",
        token_list=["<blank>", "<unk>", *pieces, "<sos/eos>"],
    )
    pack(
        {"asr_model_file": "exp/asr/" + MODEL},
        {"asr_train_config": "exp/asr/config.yaml"},
        tmp_path / "model.zip",
        ["bpe.model"],
    )
    monkeypatch.chdir("/")
    (tmp_path / "bpe.model").unlink()  # the one in the package is used
    transcriber = Transcriber(tmp_path / "model.zip")
    wave = noise(2.0)
    segment = transcriber.align(wave, "THE CATS SAT")
    assert [w.text for w in segment.words] == ["THE", "CATS", "SAT"]
    spoken = "".join(t.text for t in segment.tokens)
    assert spoken == "▁THE▁CATS▁SAT" and segment.words[0].start == segment.tokens[0][1]
    result = transcriber(wave)
    assert result.text == " ".join(w.text for w in result.words)
    with pytest.raises(ModelError, match="2 of 2 tokens are unknown to the model"):
        transcriber.align(wave, "the cats")


def test_pieces_made_again_after_the_training_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "exp" / "asr"
    sentences = ["THE CATS SAT", "THE MAT THAT SAT", "A CAT AT THE MATS"] * 4
    pieces = train_bpe(sentences, tmp_path, 16, "unigram", 1.0)
    make_experiment(
        folder,
        token_type="bpe",
        bpemodel="bpe.model",
        # the list of some recipes has further symbols, and not all pieces
        token_list=["<blank>", "<unk>", "<en>", *pieces[:-1], "<sos/eos>"],
    )
    files = folder / "config.yaml", folder / MODEL
    named = dict(zip(("asr_train_config", "asr_model_file"), map(str, files)))
    before = trained.TrainedModel(folder)
    CTCGreedy(before.model, before.args)
    pack_model(named, tmp_path / "before.zip")
    train_bpe(["THE DOGS RUN", "A FOG", "DO RUN ON"] * 4, tmp_path, 16, "unigram", 1.0)
    known = {line.split()[0] for line in open("bpe.vocab", encoding="utf-8")}
    lost = [piece for piece in pieces[:-1] if piece not in known]
    assert lost
    line = (
        f"bpe.model is not that of the training: {len(lost)} of the model's 12 tokens"
    )
    line += f" are not in it, such as {' '.join(lost[:3])}; put back"
    for use in (
        lambda: trained.TrainedModel(folder),
        lambda: CTCGreedy(before.model, before.args),
        lambda: pack_model(named, tmp_path / "after.zip"),
    ):
        with pytest.raises(ModelError) as error:
            use()
        assert line in str(error.value)
    assert not (tmp_path / "after.zip").exists()
    Path("bpe.model").write_text("no model")
    with pytest.raises(UserError, match="bpe.model: not a SentencePiece model"):
        Transcriber(folder)


def test_the_parameters_of_a_package_can_be_named(tmp_path):
    package = Path(__file__).with_name("data") / "202611_adastride.zip"
    other = tmp_path / "other.pth"
    other.touch()
    files = model_files.find_files(package, str(other), tmp_path / "one")
    assert files.parameters == other
    with pytest.raises(ModelError, match="none.pth is not in it"):
        model_files.find_files(package, "none.pth", tmp_path / "two")
    with pytest.raises(ModelError, match="names the parameters already"):
        model_files.find_files(other, "none.pth", tmp_path)


def test_a_strange_archive_writes_nothing(tmp_path):
    # what is refused, and why: tests/test_archive.py
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("meta.yaml", "{}")
        file.writestr("../evil.txt", "evil")
    with pytest.raises(ModelError, match="x.zip is not unpacked: .*points outside"):
        model_files.find_files(tmp_path / "x.zip", None, tmp_path / "in")
    assert os.listdir(tmp_path / "in") == []
    assert sorted(os.listdir(tmp_path)) == ["in", "x.zip"]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_parameters_run_no_code(exp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Evil()}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="x.pth: not loaded: .*more than parameters"):
        model_files.read_parameters(tmp_path / "x.pth")
    assert os.listdir(tmp_path) == ["x.pth"]
    (tmp_path / "x.pth").write_bytes(b"half a fi")
    with pytest.raises(ModelError, match="x.pth"):
        model_files.read_parameters(tmp_path / "x.pth")
    torch.save([1], tmp_path / "x.pth")
    with pytest.raises(ModelError, match="holds no model's parameters"):
        model_files.read_parameters(tmp_path / "x.pth")


def test_wrong_models_are_named_in_one_line(exp, tmp_path):
    def said(path, **options):
        with pytest.raises(UserError) as error:
            Transcriber(path, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    def folder(name, config, *files):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config)
        for file in files:
            os.link(exp / MODEL, tmp_path / name / file)
        return tmp_path / name

    good = (exp / "config.yaml").read_text()
    assert "no such file or folder" in said(tmp_path / "none")
    assert "no config.yaml in it" in said(tmp_path)
    assert said("") == "the model's name is empty; check for an unset variable"
    (tmp_path / "x.onnx").touch()
    assert "which deployment.recogniser.OnnxTranscriber reads" in said(
        tmp_path / "x.onnx"
    )
    (tmp_path / "x.tar").touch()
    assert "not a zip or tar archive" in said(tmp_path / "x.tar")
    (tmp_path / "x.zip").write_text("no archive")
    assert "not a zip or tar archive" in said(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as file:
        file.writestr("meta.yaml", "files: {}\nyaml_files: {}\n")
    assert "names no asr_train_config" in said(tmp_path / "y.zip")
    assert "no averaged model" in said(folder("a", good, "1epoch.pth"))
    two = folder("b", good, "valid.loss.ave.pth", "valid.cer.ave.pth")
    assert "several averaged models; name one with --asr_model_file" in said(two)
    assert Transcriber(two, asr_model_file="valid.cer.ave.pth").trained.rate == RATE
    assert Transcriber(two / "valid.cer.ave.pth").trained.rate == RATE
    assert "x.pth is not there" in said(two, asr_model_file="x.pth")
    assert "device 'gpu': give cpu, cuda or" in said(exp, device="gpu")
    if not torch.cuda.is_available():
        assert "device cuda:1: there is no GPU; use cpu" in said(exp, device="cuda:1")
    for name, *files in (("c", MODEL), ("classifier",)):
        assert "not the config of an ASR model" in said(
            folder(name, "lm: seq_rnn", *files)
        )
    transducer = "encoder_conf: {}\njoint_network_conf: {}\ntoken_list: [a]"
    for name, *files in (("t", MODEL), ("u",)):
        line = said(folder(name, transducer, *files))
        assert "config.yaml: a model of the task asr_transducer" in line
    assert "not YAML" in said(folder("d", "a: [", MODEL))
    assert "holds no options" in said(folder("e", "[]", MODEL))
    options = yaml.safe_load(good)
    options["encoder_conf"]["output_size"] = 8
    assert "does not fit" in said(folder("f", yaml.safe_dump(options), MODEL))


def test_files_that_a_config_names_are_found_from_anywhere(tmp_path, monkeypatch):
    exp = tmp_path / "recipe" / "exp" / "asr_x"
    (tmp_path / "recipe" / "data").mkdir(parents=True)
    exp.mkdir(parents=True)
    (exp / "config.yaml").write_text("bpemodel: data/bpe.model\nencoder: conformer\n")
    for folder in ("recipe", "."):  # the recipe's own, not that of where we stand
        (tmp_path / folder / "data").mkdir(exist_ok=True)
        (tmp_path / folder / "data" / "bpe.model").write_text(folder)
    (exp / MODEL).touch()
    monkeypatch.chdir(tmp_path)
    files = model_files.find_files(exp, None, tmp_path)
    options = model_files.read_options(files.config, files.roots)
    assert options["bpemodel"] == str(tmp_path / "recipe" / "data" / "bpe.model")
    (exp / "config.yaml").write_text("normalize_conf: {stats_file: exp/stats.npz}\n")
    with pytest.raises(ModelError, match="names exp/stats.npz, which is not there"):
        model_files.read_options(files.config, files.roots)


def test_folders_that_a_config_names_are_found_from_anywhere(tmp_path, monkeypatch):
    """A pretrained encoder's, which ESPnet otherwise takes for a name of its hub."""
    exp = tmp_path / "recipe" / "exp" / "asr_x"
    exp.mkdir(parents=True)
    (exp / "config.yaml").write_text(
        "encoder: conformer\n"
        "frontend_conf: {model: downloads/wavlm, other: hub/wavlm}\n"
    )
    (exp / MODEL).touch()
    for folder in ("recipe", "elsewhere"):
        (tmp_path / folder / "downloads" / "wavlm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    files = model_files.find_files(exp, None, tmp_path)
    options = model_files.read_options(files.config, files.roots)
    found = str(tmp_path / "recipe" / "downloads" / "wavlm")
    assert options["frontend_conf"] == {"model": found, "other": "hub/wavlm"}


def test_a_model_that_was_moved_after_unpacking(tmp_path):
    packed = Path(__file__).parents[1] / "models" / "adastride_whisper_4x.zip"
    unpack_model.main([str(packed), str(tmp_path / "old")])
    (tmp_path / "old").rename(tmp_path / "new")
    for model in (tmp_path / "new", tmp_path / "new" / "exp" / "adastride_whisper_4x"):
        files = model_files.find_files(model, None, tmp_path)
        assert str(tmp_path / "old") in files.config.read_text()
        options = model_files.read_options(files.config, files.roots)
        for name in (options["bpemodel"], options["normalize_conf"]["stats_file"]):
            assert Path(name).is_file() and tmp_path / "new" in Path(name).parents
    assert list(model_files.tails("/a/b/c")) == ["/a/b/c", "a/b/c", "b/c"]


# ------------------------------------------------------------ the commands


def run(capsys, *words, command=transcribe):
    """Run a command; return its status and what it said, or its one line."""
    status = 0
    try:
        command.main([str(w) for w in words])
    except SystemExit as error:
        if isinstance(error.code, str):
            assert "\n" not in error.code
            capsys.readouterr()
            return 1, "", error.code
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def loaded(transcriber, monkeypatch):
    """The model is loaded once; its options are those of the first test."""
    import espnet_adastride.transcribe

    monkeypatch.setattr(
        espnet_adastride.transcribe,
        "Transcriber",
        lambda *a, max_segment, **_: Transcriber(
            transcriber.trained, max_segment=max_segment
        ),
    )
    return transcriber


def test_a_folder_to_files(loaded, exp, recordings, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--model", exp, "--output_dir", out, "--format"]
    command += ["txt,json,srt,vtt,ctm", recordings]
    status, printed, said = run(capsys, *command)
    assert (status, printed) == (0, "")
    assert "skipped 1 file that is not audio" in said and "2 recordings, 2.5 s" in said
    names = {str(p.relative_to(out)) for p in out.rglob("[!.]*") if p.is_file()}
    kinds = ("txt", "json", "srt", "vtt", "ctm")
    assert names == {f"{n}.{k}" for n in ("a", "in/b") for k in kinds}
    found = json.loads((out / "a.json").read_text())
    wave, _ = soundfile.read(recordings / "a.wav", dtype="float32")
    assert found["text"] + "\n" == (out / "a.txt").read_text()
    expected = loaded(wave)
    assert found["text"] == expected.text
    ctm = read_ctm(out / "a.ctm").get("a", [])
    assert [w.text for w in ctm] == [w.text for w in expected.words]

    # what is there is not done again, but what is missing is
    stamp = os.stat(out / "a.txt").st_mtime_ns
    (out / "in" / "b.srt").unlink()
    status, _, said = run(capsys, *command)
    assert status == 0 and "1 of 2 recordings are already done" in said
    assert os.stat(out / "a.txt").st_mtime_ns == stamp
    assert (out / "in" / "b.srt").exists()
    status, _, said = run(capsys, "--overwrite", "true", *command)
    assert status == 0 and os.stat(out / "a.txt").st_mtime_ns > stamp


def test_printed_results(loaded, exp, recordings, capsys):
    a, b = recordings / "a.wav", recordings / "in" / "b.flac"
    text = loaded(a).text
    assert run(capsys, "--model", exp, a) == (0, text + "\n", "")
    status, printed, _ = run(capsys, "--model", exp, a, b)
    assert printed.splitlines()[0] == f"{a}\t{text}" and len(printed.splitlines()) == 2
    status, printed, _ = run(capsys, "--model", exp, a, b, "--format", "json")
    assert [json.loads(line)["name"] for line in printed.splitlines()] == [
        str(a), str(b),
    ]  # fmt: skip
    status, printed, _ = run(capsys, "--model", exp, a, "--format", "vtt")
    assert printed.startswith("WEBVTT\n")


def test_bad_recordings_are_named_and_the_rest_go_on(
    loaded, exp, recordings, tmp_path, capsys
):
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "short.wav", noise(0.025), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    files = [tmp_path / n for n in ("text.wav", "silence.wav", "short.wav", "no.wav")]
    status, printed, said = run(
        capsys, "--model", exp, *files, recordings / "a.wav", "--output_dir",
        tmp_path / "out",
    )  # fmt: skip
    assert status == 1
    lines = said.splitlines()
    for name, words in (
        ("text.wav", "unreadable audio"),
        ("silence.wav", "only silence"),
        ("short.wav", "too short for this model: 3 frames, and 7 are needed"),
        ("no.wav", "no such file"),
    ):
        (line,) = [line for line in lines if f"{tmp_path / name}: " in line]
        assert words in line
    assert lines[-1] == "3 of 5 recordings failed"
    written = sorted(p.name for p in (tmp_path / "out").glob("[!.]*"))
    assert written == ["a.txt", "silence.txt"]
    assert (tmp_path / "out" / "silence.txt").read_text() == "\n"


def test_an_interruption_keeps_what_is_written(
    loaded, exp, recordings, tmp_path, capsys, monkeypatch
):
    read = transcribe.read_audio

    def interrupted(path, rate, **options):
        if path.endswith("b.flac"):
            raise KeyboardInterrupt
        return read(path, rate, **options)

    monkeypatch.setattr(transcribe, "read_audio", interrupted)
    command = ["--model", exp, recordings, "--output_dir", tmp_path / "out"]
    status, _, said = run(capsys, *command)
    assert status == 130 and "interrupted: 1 of 2 recordings are done and kept" in said
    assert "run the same command to resume" in said
    assert [p.name for p in (tmp_path / "out").rglob("[!.]*")] == ["a.txt"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interruption_between_the_files_of_a_recording(
    loaded, exp, recordings, tmp_path, capsys, monkeypatch, after
):
    """The same command resumes wherever it happened, also after the last file."""
    write, written = transcribe.write_text, []

    def interrupted(path, text):
        if len(written) == after:
            raise KeyboardInterrupt
        write(path, text)
        written.append(path.name)
        if after == len(written) == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    command = ["--model", exp, recordings / "a.wav", "--output_dir", out]
    command += ["--format", "txt,json"]
    monkeypatch.setattr(transcribe, "write_text", interrupted)
    assert run(capsys, *command)[0] == 130
    monkeypatch.setattr(transcribe, "write_text", write)
    status, _, said = run(capsys, *command)
    assert status == 0 and ("already done" in said) == (after == 2)
    text = loaded(recordings / "a.wav").text
    assert (out / "a.txt").read_text() == text + "\n"
    assert json.loads((out / "a.json").read_text())["text"] == text


def test_what_was_done_is_of_its_recording(loaded, exp, recordings, tmp_path, capsys):
    one, other = recordings / "p0.ogg", recordings / "elsewhere" / "p0.wav"
    other.parent.mkdir()
    soundfile.write(one, noise(2.0, 3), RATE)
    soundfile.write(other, noise(1.0, 4), RATE)
    out = tmp_path / "out"
    command = ["--model", exp, "--output_dir", out]
    assert run(capsys, *command, one)[0] == 0
    first = (out / "p0.txt").read_text()
    assert "1 of 1 recordings are already done" in run(capsys, *command, one)[2]
    # another recording of that name gets one of its own
    status, _, said = run(capsys, *command, other)
    assert status == 0 and "done before" not in said
    wave, _ = soundfile.read(other, dtype="float32")
    assert (out / "p0.wav.txt").read_text() == loaded(wave).text + "\n"
    assert (out / "p0.txt").read_text() == first
    assert "1 of 1 recordings are already done" in run(capsys, *command, other)[2]
    # a recording that has changed is transcribed again
    soundfile.write(other, noise(1.5, 5), RATE)
    assert run(capsys, *command, other)[0] == 0
    wave, _ = soundfile.read(other, dtype="float32")
    assert (out / "p0.wav.txt").read_text() == loaded(wave).text + "\n"
    # what nobody knows of is not written over
    (out / "a.txt").write_text("a reference\n")
    status, _, said = run(capsys, *command, recordings / "a.wav")
    assert status == 1 and "a.txt exists, made from an unknown recording" in said
    assert (out / "a.txt").read_text() == "a reference\n"


def test_what_was_done_is_of_its_model_and_options(
    loaded, exp, recordings, tmp_path, capsys, monkeypatch
):
    out, a = tmp_path / "out", recordings / "a.wav"
    command = ["--output_dir", out, a, "--model"]
    assert run(capsys, *command, exp, "--format", "txt,json")[0] == 0
    done, again = "1 of 1 recordings are already done", "recordings are transcribed ag"

    def unloaded(args):
        raise UserError("loaded")

    load = transcribe._load
    monkeypatch.setattr(transcribe, "_load", unloaded)
    for same in (exp, os.path.relpath(exp)):
        status, _, said = run(capsys, *command, same, "--format", "txt,json")
        assert status == 0 and done in said  # and fast: the model is not loaded
    (tmp_path / "empty").mkdir()
    assert run(capsys, *command, tmp_path / "empty")[2] == "error: loaded"
    monkeypatch.setattr(transcribe, "_load", load)
    (out / "a.txt").write_text("of before\n")
    status, _, said = run(capsys, *command, exp, "--max_segment", "1")
    assert status == 0 and f"1 of 1 {again}" in said and done not in said
    assert "because the model or the options have changed" in said
    assert (out / "a.txt").read_text() != "of before\n"
    assert not (out / "a.json").exists()  # it had the text of the other options
    assert done in run(capsys, *command, exp, "--max_segment", "1")[2]
    (exp / MODEL).touch()  # trained again
    assert f"1 of 1 {again}" in run(capsys, *command, exp, "--max_segment", "1")[2]
    assert done in run(capsys, *command, exp, "--max_segment", "1")[2]


def test_a_film_is_transcribed(loaded, exp, tmp_path, capsys):
    wave = media.speech()
    film = media.encode(tmp_path / "film.mp4", "aac", wave, video=True)
    media.film_without_sound(tmp_path / "pictures.mp4")
    (tmp_path / "locked.m4p").write_bytes(b"x")
    status, printed, said = run(capsys, "--model", exp, tmp_path)
    assert status == 1 and printed.startswith(f"{film}\t")
    assert "pictures.mp4: no audio stream in it (streams: video)" in said
    assert f"1 media file is not read: {tmp_path}/locked.m4p" in said
    expected = loaded(film)
    assert printed == f"{film}\t{expected.text}\n"
    assert expected.duration == pytest.approx(len(wave) / media.RATE, abs=0.1)


# ------------------------------------------------------- pieces of recordings


def lengths(usual, longest):
    seconds = {"median": 1.0, "90%": 1.0, "99%": usual, "longest": longest}
    return TrainingLengths(9, seconds)


def test_pieces_are_as_long_as_the_training_had_them(transcriber, monkeypatch):
    model, wave = transcriber.trained, noise(9.0)
    monkeypatch.setattr(model, "lengths", None)
    assert Transcriber(model).pieces(wave) == [(0, len(wave))]
    monkeypatch.setattr(model, "lengths", lengths(2.5, 4.0))
    said = []
    own = Transcriber(model, say=said.append)
    assert own.max_segment == 2.5 and own.whole == 4.0 and said == []
    pieces = own.pieces(wave)
    assert max(b - a for a, b in pieces) <= 2.5 * RATE and pieces[-1][1] == len(wave)
    assert own.pieces(wave[: 4 * RATE]) == [(0, 4 * RATE)]  # as in training: whole
    strict = Transcriber(model, max_segment=3.0, say=said.append)
    assert len(strict.pieces(wave[: 4 * RATE])) == 2 and said == []
    Transcriber(model, max_segment=20.0, say=said.append)
    assert "pieces of up to 20 s, and the model was trained on" in said[0]
    assert "up to 4.0 s" in said[0] and "2.5 s is the default" in said[0]
    for value in (0.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="max_segment must be a number"):
            Transcriber(model, max_segment=value)


def test_a_long_recording_is_aligned_as_a_whole(transcriber, monkeypatch):
    """Tokens and times of every piece are those of the piece alone, moved."""
    wave = noise(9.0)
    own = Transcriber(transcriber.trained, max_segment=3.0)
    pieces = own.pieces(wave)
    assert len(pieces) >= 3
    seen = []
    encode = own.trained.encode
    monkeypatch.setattr(
        own.trained, "encode", lambda w, n="": (seen.append(len(w)), encode(w, n))[1]
    )
    joined = own.encode(wave)
    assert seen == [b - a for a, b in pieces]
    edges, scores = [], []
    for begin, end in pieces:
        alone = encode(wave[begin:end])
        edges.append(alone.times.boundaries[:-1] + begin / RATE)
        scores.append(alone.log_probs)
    np.testing.assert_allclose(joined.times.boundaries[:-1], np.concatenate(edges))
    assert joined.times.boundaries[-1] == pytest.approx(9.0)
    assert np.all(np.diff(joined.times.boundaries) >= 0)
    torch.testing.assert_close(joined.log_probs, torch.cat(scores))
    text = "A B A B B A A B"
    segment = own.align(wave, text)
    words, ids, _ = own.trained.tokens_of_words(text)
    path, _ = force_align(torch.cat(scores), ids, own.trained.model.blank_id)
    spans = path_spans(path, own.trained.model.blank_id)
    own_tokens = [token for token in segment.tokens]
    assert [w.text for w in segment.words] == words
    boundaries = joined.times.boundaries
    assert [t.start for t in own_tokens] == [boundaries[s.first] for s in spans]
    assert [t.end for t in own_tokens] == [boundaries[s.end] for s in spans]


def test_a_piece_that_would_not_fit_is_refused_before_it_starts(
    transcriber, monkeypatch
):
    model = transcriber.trained
    frames = 1000 / model.step / model.overall_stride()
    heads = model.args.encoder_conf["attention_heads"]
    assert model.attention_bytes(1000.0) == pytest.approx(24 * heads * frames**2)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**8)
    monkeypatch.setattr(memory, "CHECKED_BYTES", 10**6)
    monkeypatch.setattr(model.model, "encode", None)  # it does not come to that
    wave = np.zeros(1000 * RATE, np.float32)
    with pytest.raises(AudioError, match="x: a piece of 1000 s needs about .* GB.*cut"):
        model.encode(wave, "x")


def test_the_first_block_needs_most_memory(tmp_path):
    later = {"stride": [2, 4], "channels": 4, "after_blocks": [0, 1]}
    exp = make_experiment(tmp_path / "exp", "adastride", later)
    model = trained.TrainedModel(exp)
    frames = 1000 / model.step / 2
    assert model.overall_stride() == 8
    assert model.attention_bytes(1000.0) == pytest.approx(24 * 2 * frames**2)


def test_mistakes_are_told_before_a_model_is_loaded(recordings, tmp_path, capsys):
    def said(*words, model=recordings):
        status, _, line = run(capsys, "--model", model, *words)
        assert status == 1 and line.startswith("error: ")
        return line

    a, b = recordings / "a.wav", recordings / "in" / "b.flac"
    assert "no such file or folder" in said(a, model=tmp_path / "none")
    assert "several formats need --output_dir" in said(a, "--format", "txt,srt")
    assert "2 recordings as srt need --output_dir" in said(a, b, "--format", "srt")
    twin = recordings.parent / "a.mp3"
    assert "have the same id in a CTM, a; give" in said(a, twin, "--format", "ctm")
    status, _, complaint = run(capsys, "--model", "x", a, "--format", "doc")
    assert status == 2 and "'doc' is not one of txt, json, srt, vtt, ctm" in complaint
    (tmp_path / "empty").mkdir()
    assert "no audio in it (.3g2" in said(tmp_path / "empty")
    assert "would both be written to" in said(
        a, recordings.parent / "a.wav", "--output_dir", tmp_path / "out"
    )
    # the suffix tells these two apart
    sources = transcribe.find_media(["x/a.wav", "x/a.mp3", "b.wav"]).sources
    jobs = transcribe.plan(sources, transcribe.Sources("out", ""), ["txt"])
    assert [str(job.outputs["txt"]) for job in jobs] == [
        "out/a.wav.txt", "out/a.mp3.txt", "out/b.txt",
    ]  # fmt: skip
    assert "no config.yaml in it" in said(a)  # found out last


def test_empty_names_are_not_the_current_folder(
    recordings, tmp_path, capsys, monkeypatch
):
    """As of a shell's variable that is not set."""
    monkeypatch.setitem(sys.modules, "espnet_adastride.transcribe", None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "config.yaml").touch()
    a, m = recordings / "a.wav", ["--model", tmp_path]
    text = ["--text", "A", "--output_dir"]
    for command, words, empty in (
        (transcribe, [*m, a, "--output_dir", ""], "--output_dir"),
        (transcribe, ["--model", "", a], "--model"),
        (align, [*m, "--audio", a, *text, ""], "--output_dir"),
        (align, [*m, "--audio", "", *text, "o"], "--audio"),
        (plot, ["utterance", *m, "--audio", "", "--output", "x.png"], "--audio"),
    ):
        status, _, line = run(capsys, *words, command=command)
        assert line == f"error: {empty} is empty; check for an unset variable"
        assert status == 1 and not list((tmp_path / "here").rglob("*"))


def spoil(place):
    """Put what a user may have there: archives that are none, a file in the way."""
    (place / "config.yaml").touch()
    for name, content in (("empty.zip", b""), ("cut.zip", b"PK\3\4" + bytes(40))):
        (place / name).write_bytes(content)
    with zipfile.ZipFile(place / "other.zip", "w") as packed:
        packed.writestr("readme.txt", "no model")
    (place / "a file").touch()


@pytest.mark.parametrize("command", [transcribe, align, plot])
@pytest.mark.parametrize(
    "model, output, words",
    [
        ("empty.zip", "out", "not a zip or tar archive, or is truncated"),
        ("cut.zip", "out", "it is broken"),
        ("other.zip", "out", "it has no meta.yaml"),
        ("", "a file", "a file is not a folder; move it away"),
        ("", "a file/deep/er", "a file is not a folder; move it away"),
    ],
)
def test_archives_and_outputs_are_checked_before_a_model_is_loaded(
    command, model, output, words, recordings, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "espnet_adastride.transcribe", None)
    spoil(tmp_path)
    a, out = recordings / "a.wav", tmp_path / output
    options = ["--model", tmp_path / model]
    if command is plot:
        options = ["utterance", *options, "--audio", a, "--output", out / "x.png"]
    elif command is align:
        options += ["--audio", a, "--text", "A", "--output_dir", out]
    else:
        options += [a, "--output_dir", out]
    before = sorted(tmp_path.rglob("*"))
    status, _, line = run(capsys, *options, command=command)
    assert status == 1 and words in line
    # plot makes the folder of its output
    made = set(tmp_path.rglob("*")) - {*before, tmp_path / "out"}
    assert not made


@pytest.mark.parametrize("command", [transcribe, align, plot])
def test_missing_recordings_are_told_before_a_model_is_loaded(
    command, recordings, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "espnet_adastride.transcribe", None)
    spoil(tmp_path)
    gone = tmp_path / "gone.wav"
    options = {
        transcribe: [gone],
        align: ["--audio", gone, "--text", "A", "--output_dir", tmp_path / "o"],
        plot: ["--audio", gone, "--output", tmp_path / "x.png"],
    }[command]
    mode = ["stream"] if command is plot else []
    words = [*mode, "--model", tmp_path, *options]
    status, _, said = run(capsys, *words, command=command)
    assert status == 1 and f"{gone}: no such file" in said
    assert len(said.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission to write in"):
        check_folder(tmp_path / "a" / "b", "--output_dir")
    tmp_path.chmod(0o700)


def test_some_missing_recordings_are_told_first(
    loaded, exp, recordings, tmp_path, capsys
):
    gone = tmp_path / "gone.wav"
    words = ["--model", exp, recordings / "a.wav", gone, "--output_dir", tmp_path / "o"]
    status, _, said = run(capsys, *words)
    lines = said.splitlines()
    assert status == 1 and f"{gone}: no such file" in lines[0]
    assert lines[-1] == "1 of 2 recordings failed"
    assert (tmp_path / "o" / "a.txt").is_file()


def test_aligning_a_data_directory(loaded, exp, recordings, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text(
        f"u1 {recordings}/a.wav\nu2 {recordings}/in/b.flac\nu3 {recordings}/no.wav\n"
        f"u4 {recordings}/in/b.flac\n"
    )
    (data / "text").write_text("u1 AB B\nu2 A\nu3 A\nu4 " + "AB" * 40 + "\n")
    command = ["--model", exp, "--data_dir", data, "--output_dir"]
    import espnet_adastride.transcribe as module

    module.Transcriber = lambda *a, **k: loaded
    status, _, line = run(capsys, *command, tmp_path / "p", command=align)
    assert status == 1 and line == "error: 2 utterances failed: u3, u4"
    words = read_ctm(tmp_path / "p" / "words.ctm")
    assert {key: [w.text for w in found] for key, found in words.items()} == {
        "u1": ["AB", "B"], "u2": ["A"],
    }  # fmt: skip
    tokens = read_ctm(tmp_path / "p" / "tokens.ctm")
    assert [t.text for t in tokens["u1"]] == ["A", "B", "<space>", "B"]
    assert tokens["u1"][0].start == words["u1"][0].start
    run(capsys, *command, tmp_path / "u", "--times", "uniform", command=align)
    uniform = json.loads((tmp_path / "u" / "alignment.json").read_text())
    assert uniform["times"] == "uniform"
    starts = [w["start"] for w in uniform["utterances"][0]["segments"][0]["words"]]
    # frames of 40 ms, centred on multiples of that
    assert all(round((s / 0.04) % 1, 3) == 0.5 or s == 0 for s in starts)
    assert starts != [round(w.start, 3) for w in words["u1"]]


def test_align_resumes_after_an_interruption(
    loaded, exp, recordings, tmp_path, capsys, monkeypatch
):
    import espnet_adastride.transcribe as module

    data, heard = tmp_path / "data", []
    data.mkdir()
    names = [recordings / "a.wav", recordings / "in" / "b.flac"]
    (data / "wav.scp").write_text(f"u1 {names[0]}\nu2 {names[1]}\nu3 {names[0]}\n")
    (data / "text").write_text("u1 AB B\nu2 A\nu3 B\n")
    whole, part = tmp_path / "whole", tmp_path / "part"
    command = ["--model", exp, "--data_dir", data, "--output_dir"]
    monkeypatch.setattr(module, "Transcriber", lambda *a, **k: loaded)
    run(capsys, *command, whole, command=align)
    inside, stop_at = loaded.align, [2]

    def counted(wave, text, *rest):
        heard.append(text)
        if len(heard) == stop_at[0]:
            raise KeyboardInterrupt
        return inside(wave, text, *rest)

    monkeypatch.setattr(loaded, "align", counted)
    status, _, line = run(capsys, *command, part, command=align)
    assert status == 130 and "1 of 3 utterances are aligned and kept" in line
    assert list(read_ctm(part / "words.ctm")) == ["u1"]
    stop_at[0] = 0
    heard.clear()
    status, _, line = run(capsys, *command, part, command=align)
    assert status == 0 and "1 of 3 utterances are already aligned" in line
    assert heard == ["A", "B"]
    for name in ("words.ctm", "tokens.ctm", "alignment.json"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()

    def aligned_again(*words):
        heard.clear()
        assert run(capsys, *command, part, *words, command=align)[0] == 0
        return heard

    assert not aligned_again()
    (data / "text").write_text("u1 AB B\nu2 B\nu3 B\n")
    assert aligned_again() == ["B"]
    assert len(aligned_again("--overwrite", "true")) == 3
    assert len(aligned_again("--times", "uniform")) == 3  # another alignment


def test_one_recording_and_wrong_options_of_align(exp, recordings, tmp_path, capsys):
    def said(*words):
        common = ["--model", exp, "--output_dir", tmp_path / "o"]
        status, _, line = run(capsys, *common, *words, command=align)
        assert status == 1
        return line

    a = recordings / "a.wav"
    assert "--audio needs its transcript" in said("--audio", a)
    assert "--text requires --audio" in said("--data_dir", tmp_path, "--text", "A")
    assert "is a folder; give a file" in said("--audio", "x.wav", "--text", tmp_path)
    assert "wav.scp: no such file" in said("--data_dir", tmp_path)
    (tmp_path / "wav.scp").write_text(f"u {a}\n")
    (tmp_path / "text").write_text("v A\n")
    assert "hold different utterances: u, v" in said("--data_dir", tmp_path)
    (tmp_path / "a.txt").write_text("A\nB\n")
    args = align.get_parser().parse_args(
        ["--model", "m", "--output_dir", "o", "--audio", str(a), "--text"]
        + [str(tmp_path / "a.txt")]
    )
    assert align.read_jobs(args) == {"a": (str(a), "A B")}
    args.audio = "-"
    assert align.read_jobs(args) == {"stdin": ("-", "A B")}


def test_an_alignment_that_fails_keeps_the_earlier_one(
    loaded, exp, recordings, tmp_path, capsys
):
    out = tmp_path / "alignment"

    def aligned(audio, text):
        words = ["--model", exp, "--output_dir", out, "--audio", audio, "--text", text]
        return run(capsys, *words, command=align)

    status, _, line = aligned(recordings / "a.wav", "A BÄB")
    assert status == 0 and line.endswith("tokens.ctm) in 1 of 1 utterances: a\n")
    assert aligned(recordings / "a.wav", "A")[::2] == (0, "")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"words.ctm", "tokens.ctm", "alignment.json"}
    (tmp_path / "empty.wav").touch()
    assert aligned(tmp_path / "empty.wav", "A")[0] == 1
    assert aligned(recordings / "a.wav", "A " * 500)[0] == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
