"""ESPnet's own aligners and its command ``espnet``: true times, or one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import espnet_adastride
from espnet_adastride.bin import pack_model, run, unpack_model
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin import alignment, espnet
from espnet_adastride.transcribe import Transcriber
from tests.plugin.releases import NEWER
from tests.plugin.test_more_encoders import owsm_ctc
from tests.release_models import DATA, RATE, say
from tests.tiny_models import make_experiment

newer = pytest.mark.skipif(not NEWER, reason="espnet2.bin.align came with 202611")
TEXT = "CBACBC AABBC CCA"
MODELS = ["202511_adastride", "202611_adastride"]


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """A trained model's config.yaml and parameters, unpacked."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    unpack_model.main([str(DATA / f"{request.param}.zip"), str(folder)])
    exp = folder / "asr_adastride"
    return exp / "config.yaml", exp / "valid.loss_ctc.ave.pth"


def test_times_between_constant_frames_by_hand():
    boundaries = np.array([0.0, 0.1, 0.5, 0.6])
    # frames of 0.2 s, the centres of which are called 0, 0.2 and 0.4
    centres = alignment.from_constant([0.0, 0.2, 0.4], 0.2, boundaries)
    np.testing.assert_allclose(centres, [0.05, 0.3, 0.55])
    np.testing.assert_allclose(alignment.from_constant(0.1, 0.2, boundaries), 0.175)
    ends = alignment.from_constant([-0.1, 0.5, 7.0], 0.2, boundaries)
    np.testing.assert_allclose(ends, [0.0, 0.6, 0.6])
    # of constant frames, half a frame later: the centre is not the start
    even = np.arange(4) * 0.2
    shifted = alignment.from_constant([0.0, 0.2, 0.35], 0.2, even)
    np.testing.assert_allclose(shifted, [0.1, 0.3, 0.45])


def errors(task, spans):
    """Return how far the letters' times are outside of where they were said."""
    letters = zip(task.timings, task.ground_truth_mat[:, 0])
    times = [time for time, token in letters if token in (3, 4, 5)]
    pairs = zip(times, spans, strict=True)
    return np.array([max(start - t, t - end, 0.0) for t, (start, end) in pairs])


def test_ctc_segmentation_has_true_times(model):
    wave, spans = say(TEXT, 11)
    aligner = espnet.asr_align.CTCSegmentation(
        *model, fs=RATE, kaldi_style_text=False, time_stamps="auto"
    )
    ours = aligner(wave, [TEXT], fs=RATE)
    call = espnet.asr_align.CTCSegmentation.__call__.__wrapped__
    theirs = call(aligner, wave, [TEXT], fs=RATE)
    # the path and its scores are ESPnet's
    assert ours.state_list == theirs.state_list
    np.testing.assert_array_equal(ours.char_probs, theirs.char_probs)
    assert [s[2] for s in ours.segments] == [s[2] for s in theirs.segments]
    edges = Transcriber(model[1]).trained.encode(wave).times.boundaries
    frames = np.rint(theirs.timings / theirs.config.index_duration).astype(int)
    centres = (edges[1:] + edges[:-1]) / 2
    np.testing.assert_allclose(ours.timings, centres[frames], atol=1e-6)
    step = len(wave) / RATE / len(centres)
    assert np.abs(ours.timings - theirs.timings).max() > step
    # 30 to 36 ms from the letters on average; at a constant rate, 46 to 50
    assert errors(ours, spans).mean() < 0.85 * errors(theirs, spans).mean()


def test_a_rate_fixed_by_noise_is_mapped_by_the_recording(model):
    wave, _ = say(TEXT, 11)
    options = {"fs": RATE, "kaldi_style_text": False, "time_stamps": "fixed"}
    aligner = espnet.asr_align.CTCSegmentation(*model, **options)
    edges = Transcriber(model[1]).trained.encode(wave).times.boundaries
    centres = (edges[1:] + edges[:-1]) / 2
    for _ in range(2):  # the first call encodes noise, too
        task = aligner(wave, TEXT.split(), fs=RATE)
        nearest = np.abs(task.timings[:, None] - centres).min(axis=1)
        assert nearest.max() < 1e-6


def test_other_input_layers_are_espnets(tmp_path):
    unpack_model.main([str(DATA / "202511_conv2d.zip"), str(tmp_path / "model")])
    exp = tmp_path / "model" / "asr_conv2d"
    wave, _ = say(TEXT, 11)
    aligner = espnet.asr_align.CTCSegmentation(
        exp / "config.yaml", exp / "valid.loss_ctc.ave.pth", fs=RATE
    )
    text = [f"u{i} {word}" for i, word in enumerate(TEXT.split())]
    ours = aligner(wave, text, fs=RATE)
    call = espnet.asr_align.CTCSegmentation.__call__.__wrapped__
    assert str(ours) == str(call(aligner, wave, text, fs=RATE))


def test_the_command_has_true_times(model, tmp_path):
    """Through the runner, which runs the module that the plugin has changed."""
    wave, _ = say(TEXT, 11)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    words = TEXT.split()
    (tmp_path / "text").write_text("".join(f"{w}_ {w}\n" for w in words))
    command = ["-m", "espnet2.bin.asr_align", "--asr_train_config", str(model[0])]
    command += ["--asr_model_file", str(model[1]), "--audio", str(tmp_path / "a.wav")]
    run.main(
        [*command, "--text", f"{tmp_path}/text", "--output", f"{tmp_path}/aligned"]
    )
    import gc

    gc.collect()  # argparse's file is closed when it is gone
    lines = [line.split() for line in open(tmp_path / "aligned")]
    aligner = espnet.asr_align.CTCSegmentation(*model, fs=RATE, kaldi_style_text=False)
    task = aligner(wave, words, fs=RATE)
    found = [[float(x) for x in line[2:4]] for line in lines]
    np.testing.assert_allclose(found, [s[:2] for s in task.segments], atol=0.006)


# ------------------------------------------------------------------ espnet align
@newer
def test_forced_alignment_is_that_of_adastride_align(model):
    wave, _ = say(TEXT, 11)
    aligner = espnet.forced_align.ForcedAligner(
        asr_train_config=model[0], asr_model_file=model[1]
    )
    aligner.model.preprocessor_conf = {"fs": RATE}  # it reads 16 kHz else
    segments = aligner(wave, TEXT.split())
    expected = Transcriber(model[1]).align(wave, TEXT).words
    for segment, word in zip(segments, expected, strict=True):
        assert segment.text == word.text
        assert (segment.start, segment.end) == pytest.approx(word[1:3], abs=1e-3)
        ends = [token.end for token in segment.tokens]
        assert ends == sorted(ends) and len(ends) == len(segment.text)


@newer
def test_audio_at_another_rate_is_not_aligned(model):
    aligner = espnet.forced_align.ForcedAligner(
        asr_train_config=model[0], asr_model_file=model[1]
    )
    with pytest.raises(
        ConfigurationError, match="at 16000 Hz.* takes 8000 Hz"
    ) as error:
        aligner(say(TEXT, 11)[0], TEXT.split())
    assert "\n" not in str(error.value)


@newer
def test_forced_alignment_of_other_layers_is_espnets(tmp_path):
    unpack_model.main([str(DATA / "202611_conv2d.zip"), str(tmp_path / "model")])
    exp = tmp_path / "model" / "asr_conv2d"
    aligner = espnet.forced_align.ForcedAligner(
        asr_train_config=exp / "config.yaml",
        asr_model_file=exp / "valid.loss_ctc.ave.pth",
    )
    aligner.model.preprocessor_conf = {"fs": RATE}
    wave, _ = say(TEXT, 11)
    call = espnet.forced_align.ForcedAligner.__call__.__wrapped__
    assert aligner(wave, TEXT.split()) == call(aligner, wave, TEXT.split())


@newer
def test_owsm_models_are_not_aligned():
    class Loaded:
        """What s2t_inference.Speech2Text is asked for."""

        s2t_model = owsm_ctc(input_layer_conf={"stride": 8})

        def ctc_log_probs(self, speech):
            raise AssertionError("it was encoded")

    aligner = espnet.forced_align.ForcedAligner(Loaded())
    with pytest.raises(ConfigurationError, match="adaptive strides do not") as error:
        aligner.log_probs(np.zeros(16000, np.float32))
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ the command espnet
ZOO = """\
import tempfile
from espnet2.main_funcs.pack_funcs import unpack

class ModelDownloader:
    '''What the package does with a file's name instead of a model's tag.'''

    def download_and_unpack(self, name):
        return unpack(name, tempfile.mkdtemp(dir={folder!r}))
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A packed, untrained model for 16 kHz, whose strides follow the energy."""
    folder = tmp_path_factory.mktemp("wide")
    frontend = {"fs": "16k", "n_fft": 512, "hop_length": 160, "n_mels": 20}
    make_experiment(folder / "exp", frontend_conf=frontend)
    options = ["--asr_train_config", f"{folder}/exp/config.yaml"]
    options += ["--asr_model_file", f"{folder}/exp/valid.acc.ave.pth"]
    pack_model.main([*options, "--outpath", f"{folder}/model.zip"])
    zoo = folder / "zoo" / "espnet_model_zoo"
    zoo.mkdir(parents=True)
    (zoo / "__init__.py").write_text("")
    (zoo / "downloader.py").write_text(ZOO.format(folder=str(folder)))
    rng = np.random.default_rng(0)
    level = np.repeat([0.2, 0.002, 0.2, 0.002], 8000)
    wave = (rng.standard_normal(32000) * level).astype(np.float32)
    soundfile.write(folder / "a.wav", wave, 16000, subtype="FLOAT")
    return folder


def command(wide, *words):
    """Run ``espnet WORDS`` with the plugin."""
    package = Path(espnet_adastride.__file__).parents[1]
    path = os.pathsep.join([str(wide / "zoo"), str(package)])
    runner = [sys.executable, "-m", "espnet_adastride.bin.run"]
    return subprocess.run(
        [*runner, "-m", "espnet2.bin.cli", *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
@newer
def test_espnet_align(wide):
    model, audio = str(wide / "model.zip"), str(wide / "a.wav")
    words = ["--text", "ABAB", "--text", "BABA", "--tokens", "--device", "cpu"]
    done = command(wide, "align", audio, "--model", model, *words)
    assert done.returncode == 0, done.stderr
    lines = [line.strip().split("\t") for line in done.stdout.splitlines()]
    lines = [line for line in lines if len(line) == 4]
    assert [line[3] for line in lines] == ["ABAB", *"ABAB", "BABA", *"BABA"]
    times = np.array([[float(x) for x in line[:2]] for line in lines])
    wave, _ = soundfile.read(audio, dtype="float32")
    edges = Transcriber(model).trained.encode(wave).times.boundaries
    assert np.abs(times[:, :, None] - edges).min(axis=2).max() < 0.006
    constant = np.linspace(0, 2.0, len(edges))
    assert np.abs(times[:, :, None] - constant).min(axis=2).max() > 0.006


@pytest.mark.slow
@newer
def test_espnet_transcribe_wants_an_owsm_model(wide):
    done = command(
        wide, "transcribe", str(wide / "a.wav"), "--model", str(wide / "model.zip")
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "does not look like a model for `espnet transcribe`" in last
