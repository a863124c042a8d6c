"""Streaming: ESPnet's contextual block encoders, its own command's class, ours, and
``adastride transcribe --stream``."""

import io
import os
import signal
import threading
import time
import types
import wave as wave_file

import numpy as np
import pytest
import soundfile
import torch
import yaml

pytest.importorskip("espnet2")

from espnet2.bin.asr_inference_streaming import Speech2TextStreaming  # noqa: E402

from espnet_adastride.bin import plot, transcribe  # noqa: E402
from espnet_adastride.corpora import recordings  # noqa: E402
from espnet_adastride.corpora.recordings import read_pcm  # noqa: E402
from espnet_adastride.errors import AudioError  # noqa: E402
from espnet_adastride.errors import ConfigurationError, UserError  # noqa: E402
from espnet_adastride.plugin import contextual, encoders, espnet  # noqa: E402
from espnet_adastride.plugin.streaming import Features, Streamer  # noqa: E402
from espnet_adastride.plugin.trained import TrainedModel  # noqa: E402
from espnet_adastride.report.charts import StreamRow, plot_stream  # noqa: E402
from espnet_adastride.timing.latency import (  # noqa: E402
    Clock,
    Latency,
    describe_latency,
    summarise_latency,
)
from espnet_adastride.transcribe import Transcriber  # noqa: E402
from tests.plugin.tiny_encoders import TINY, tiny_encoder  # noqa: E402
from tiny_models import RATE, make_experiment  # noqa: E402

BLOCKS = {"stride": 4, "channels": 8, "block": 0.4}
ENCODERS = ["contextual_block_conformer", "contextual_block_transformer"]


def noise(seconds, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    level = np.where(np.sin(2 * np.pi * time) > 0, 0.2, 0.002)
    return (rng.standard_normal(len(time)) * level).astype(np.float32)


def experiment(folder, encoder=ENCODERS[0], conf=None, **options):
    """A model that streams: blocks of 0.4 s, attention over 20 frames of 40 ms."""
    feats = np.random.default_rng(0).standard_normal((50, 20))
    stats = folder.parent / "feats_stats.npz"
    folder.parent.mkdir(parents=True, exist_ok=True)
    sums = {"count": 50, "sum": feats.sum(axis=0), "sum_square": (feats**2).sum(axis=0)}
    np.savez(stats, **sums)
    own = {"block_size": 20, "hop_size": 8, "look_ahead": 8}
    settings = {
        "encoder": encoder,
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": str(stats)},
        "frontend_conf": {
            "fs": "8k",
            "n_fft": 256,
            "win_length": 200,
            "hop_length": 80,
            "n_mels": 20,
        },
        **options,
    }
    torch.manual_seed(0)
    made = make_experiment(
        folder, conf={**BLOCKS, **(conf or {})}, encoder_options=own, **settings
    )
    # an untrained CTC says one token: let it say what the frames differ in
    state = torch.load(made / "valid.acc.ave.pth", weights_only=True)
    state["ctc.ctc_lo.weight"] *= 20.0
    state["ctc.ctc_lo.bias"].zero_()
    torch.save(state, made / "valid.acc.ave.pth")
    return made


@pytest.fixture(scope="module", params=ENCODERS)
def folder(request, tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("streams") / "exp", request.param)


@pytest.fixture(scope="module")
def conformer(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("streams") / "exp")


def chunks_of(samples, rng, longest=4000):
    while len(samples):
        size = int(rng.integers(1, longest))
        yield samples[:size]
        samples = samples[size:]


def heard(trained, chunks):
    streamer = Streamer(trained)
    for chunk in chunks:
        streamer.push(chunk)
    streamer.push(np.zeros(0, dtype=np.float32), final=True)
    return streamer


def test_attention_within_blocks_is_no_matter_of_memory(folder):
    trained = TrainedModel(folder)
    assert trained.attention_bytes(1e5) == 0.0
    trained.model.encoder.block_size = 0  # attends to everything
    assert trained.attention_bytes(1e5) > 1e9


# ------------------------------------------------------------------ the encoder
@pytest.mark.parametrize("word", ENCODERS)
@pytest.mark.parametrize("method", ["adastride", "avg_pool", "strided_conv"])
def test_forward_infer_is_the_whole_forward(word, method):
    """Whatever the number of frames, the encoder's own edges included."""
    own = {"num_blocks": 2, "block_size": 20, "hop_size": 8, "look_ahead": 8}
    encoder = tiny_encoder(encoders.ENCODERS[word], BLOCKS, method, **own)
    rng = np.random.default_rng(0)
    for length in (1, 30, 40, 41, 79, 80, 81, 82, 120, 200, 251, 333, 400):
        x = torch.randn(1, length, 20)
        whole, _, _ = encoder(x, torch.tensor([length]))
        state, made, rest = None, [], x
        while rest.size(1):
            size = int(rng.integers(1, 90))
            part, rest = rest[:, :size], rest[:, size:]
            out, _, state = encoder(
                part,
                torch.tensor([part.size(1)]),
                state,
                is_final=not rest.size(1),
                infer_mode=True,
            )
            made.append(out)
        assert state is None
        torch.testing.assert_close(torch.cat(made, 1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("word", ENCODERS)
def test_with_espnets_own_input_layer_nothing_changes(word):
    conf = {**TINY, "input_layer": "conv2d"}
    stock_class = getattr(espnet, encoders.ENCODERS[word].__name__)
    made = []
    for kind in (stock_class, encoders.ENCODERS[word]):
        torch.manual_seed(0)
        encoder = kind(20, 16, block_size=20, hop_size=8, look_ahead=8, **conf).eval()
        x = torch.randn(1, 300, 20, generator=torch.Generator().manual_seed(1))
        whole, _, _ = encoder(x, torch.tensor([300]))
        first, _, state = encoder(
            x[:, :200], torch.tensor([200]), None, is_final=False, infer_mode=True
        )
        last, _, _ = encoder(
            x[:, 200:], torch.tensor([100]), state, is_final=True, infer_mode=True
        )
        made.append((whole, first, last))
    for ours, theirs in zip(*made):
        assert torch.equal(ours, theirs)


def test_a_short_utterance_of_a_batch_is_itself():
    kind = encoders.ContextualBlockConformerEncoder
    encoder = tiny_encoder(kind, BLOCKS, block_size=40)
    x = torch.randn(2, 120, 20)
    _, lengths, _ = encoder(x, torch.tensor([120, 50]))
    assert lengths.tolist() == [30, 13]
    mask = (torch.arange(120) < torch.tensor([[120], [50]])).unsqueeze(1)
    both, _ = encoder.embed(x, mask)
    alone, _ = encoder.embed(x[1:, :50], None)
    torch.testing.assert_close(both[1:, :13], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("word", ENCODERS)
def test_after_blocks_is_refused(word):
    conf = {"stride": [2, 2], "channels": 4, "after_blocks": [0, 1]}
    with pytest.raises(
        ConfigurationError, match="cannot be combined with this encoder"
    ):
        encoders.ENCODERS[word](
            20, 16, num_blocks=2, input_layer="adastride", input_layer_conf=conf
        )


def test_true_times_are_refused():
    conf = {**BLOCKS, "true_times": True}
    with pytest.raises(ConfigurationError, match="contextual encoders have absolute"):
        tiny_encoder(encoders.ContextualBlockConformerEncoder, conf)


def test_a_long_stream_needs_no_table_of_positions():
    encoder = tiny_encoder(encoders.ContextualBlockConformerEncoder, BLOCKS)
    behind, x = contextual._BehindInputLayer(encoder), torch.randn(1, 9, 16)
    made = {start: behind.pos_enc(x, start) for start in (0, 70, 5500)}
    assert encoder.pos_enc.pe.size(1) == 5000  # ESPnet's, which would grow
    for start, encoded in made.items():
        wanted = encoder.pos_enc(x, start)
        torch.testing.assert_close(encoded, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("word", ENCODERS)
def test_the_state_is_on_the_device_of_the_features(word):
    own = {"block_size": 20, "hop_size": 8, "look_ahead": 8}
    encoder = tiny_encoder(encoders.ENCODERS[word], BLOCKS, **own)
    x, state = torch.randn(1, 130, 20), None
    for part in x.split(65, dim=1):
        lengths = torch.tensor([65])
        with torch.device("meta"):  # of all tensors that are told no device
            out, _, state = encoder(
                part, lengths, state, is_final=False, infer_mode=True
            )
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    assert len(tensors) > 3 and out.size(1) > 0
    assert {tensor.device.type for tensor in [out, *tensors]} == {"cpu"}


# ------------------------------------------------------------------ ESPnet's command
def test_espnets_streaming_class_drives_it(folder):
    """The frames that reach its beam search are those of the whole recording."""
    config, model = str(folder / "config.yaml"), str(folder / "valid.acc.ave.pth")
    search = Speech2TextStreaming(config, model, beam_size=2, ctc_weight=0.5)
    samples = noise(3.37)
    reached = []
    found = search.beam_search.forward

    def forward(x, *args, **kwargs):
        reached.append(x)
        return found(x, *args, **kwargs)

    search.beam_search.forward = forward
    with torch.no_grad():
        whole, _ = search.asr_model.encode(
            torch.tensor(samples)[None], torch.tensor([len(samples)])
        )
    for size in (len(samples), 4000, 1600):
        reached.clear()
        for start in range(0, len(samples), size):
            end = start + size
            results = search(samples[start:end], is_final=end >= len(samples))
        torch.testing.assert_close(torch.cat(reached), whole[0], atol=1e-4, rtol=1e-4)
        assert len(results) == 1


# ------------------------------------------------------------------ ours
def test_a_stream_is_the_whole_recording(folder):
    trained = TrainedModel(folder)
    samples = noise(3.37)
    encoded = trained.encode(samples)
    streamer = heard(trained, [samples])
    scores, path = encoded.log_probs.max(dim=1)
    assert streamer._path == path.tolist() and len(set(path.tolist())) > 1
    np.testing.assert_allclose(streamer._scores, scores.tolist(), atol=1e-4)
    np.testing.assert_allclose(
        streamer.boundaries(), encoded.times.boundaries, atol=1e-5
    )
    whole = Transcriber(trained)(samples)
    words, _ = streamer.words()
    assert streamer.text() == whole.text and whole.text
    assert [word.text for word in words] == [word.text for word in whole.words]
    for one, two in zip(words, whole.words):
        assert one.start == pytest.approx(two.start, abs=1e-5)
        assert one.end == pytest.approx(two.end, abs=1e-5)
        assert one.score == pytest.approx(two.score, abs=1e-4)


def test_the_same_numbers_however_samples_arrive(conformer):
    trained = TrainedModel(conformer)
    samples, rng = noise(3.37), np.random.default_rng(0)
    first = heard(trained, [samples])
    for longest in (3, 500, 4000, 20000):
        part = samples if longest > 3 else samples[:4000]
        whole = first if longest > 3 else heard(trained, [part])
        again = heard(trained, chunks_of(part, rng, longest))
        assert again._path == whole._path
        assert again._scores == whole._scores  # to the last bit
        assert again.tokens == whole.tokens
        assert again.boundaries().tolist() == whole.boundaries().tolist()


@pytest.mark.parametrize("seconds", [0.01, 0.02, 0.1, 0.4, 0.41, 0.42, 0.8, 0.83, 1.6])
def test_recordings_of_any_length(conformer, seconds):
    trained, samples = TrainedModel(conformer), noise(seconds)
    streamer = heard(trained, chunks_of(samples, np.random.default_rng(1), 900))
    if len(samples) <= 128:  # half a window: too short to be heard
        assert streamer.text() == "" and streamer.latency().words == []
        return
    encoded = trained.encode(samples)
    assert streamer._path == encoded.log_probs.argmax(dim=1).tolist()
    np.testing.assert_allclose(
        streamer.boundaries(), encoded.times.boundaries, atol=1e-5
    )


def test_half_precision_spares_the_frontend(conformer):
    made = []
    for cast in (False, True):
        features = Features(TrainedModel(conformer).model, 40)
        features.push(noise(1.0))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
            made.append(features.next_group())
    assert made[0].dtype == torch.float32 and torch.equal(*made)


def test_silence_has_no_words(conformer):
    trained = TrainedModel(conformer)
    silence = np.zeros(16000, dtype=np.float32)
    streamer = heard(trained, silence.reshape(10, -1))
    assert streamer.silent and set(streamer._path) != {0}
    assert streamer.text() == "" and streamer.tokens == []
    transcript = Transcriber(trained).streamed(streamer, "silence")
    assert transcript.silent and transcript.text == "" and transcript.words == []
    # what follows it is heard as in the whole recording
    samples = np.concatenate([silence, noise(2.0)])
    streamer = heard(trained, samples.reshape(20, -1))
    assert streamer.text() == Transcriber(trained)(samples).text != ""
    assert len(streamer.shown) == len(streamer.tokens)


def test_samples_that_are_none(conformer):
    trained, samples = TrainedModel(conformer), noise(1.0)
    streamer = Streamer(trained)
    streamer.push(samples[:4000])
    wrong = {
        "divide them by 32768": (samples * 32768).astype(np.int16),
        "integers; divide them": samples * 32768,
        "1 sample is not a number": np.array([0.0, np.nan]),
        "must be (n,), of one channel, got (8000, 2)": np.stack([samples] * 2, axis=1),
    }
    for words, given in wrong.items():
        with pytest.raises(AudioError) as error:
            streamer.push(given, final=True)
        assert words in str(error.value) and "\n" not in str(error.value)
    streamer.push(samples[4000:].astype(np.float64), final=True)  # it continues
    assert streamer._path == heard(trained, [samples])._path


def test_another_block_is_for_the_next_stream(conformer):
    trained, samples = TrainedModel(conformer), noise(2.0)
    alone, streamer = heard(trained, [samples]), Streamer(trained)
    trained.set_block(0.8)
    streamer.push(samples)
    streamer.push(samples[:0], final=True)
    assert streamer._path == alone._path and streamer.tokens == alone.tokens


def test_threads_share_a_model(conformer):
    """The network computes for one at a time: it keeps values of a batch."""
    trained, samples = TrainedModel(conformer), noise(1.0)
    wanted = heard(trained, [samples]).boundaries().tolist()
    made, inside, others = [], [], []

    def enter(*_):
        others.append(len(inside))
        inside.append(True)
        time.sleep(0.05)

    trained.model.encoder.register_forward_pre_hook(enter)
    trained.model.encoder.register_forward_hook(lambda *_: inside.clear())

    def work(number):
        if number % 2:
            edges = heard(trained, [samples]).boundaries()
        else:
            edges = trained.encode(samples).times.boundaries
        made.append(edges.tolist())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(others) == {0}
    np.testing.assert_allclose(made, [wanted] * 4, atol=1e-5)


def test_nothing_has_no_frames(conformer):
    trained = TrainedModel(conformer)
    streamer = heard(trained, [[], noise(1.0), []])  # empty lists are no floats
    assert streamer._path == heard(trained, [noise(1.0)])._path
    streamer = heard(trained, [])
    assert streamer.boundaries().tolist() == [0.0] and streamer.text() == ""


def test_what_has_been_heard_stays(conformer):
    """Frames that have come do not depend on what follows."""
    trained, samples = TrainedModel(conformer), noise(3.0)
    other = samples.copy()
    other[16000:] = noise(1.0, seed=5)
    paths = []
    for given in (samples, other):
        streamer, seen = Streamer(trained), 0
        for start in range(0, 16000, 800):
            before = list(streamer._path)
            seen += streamer.push(given[start : start + 800])
            assert streamer._path[: len(before)] == before
        paths.append(streamer._path)
    assert paths[0] == paths[1] and seen == len(paths[0]) > 10


def test_frames_come_when_their_block_has_ended(conformer):
    """The first block's: 40 feature frames, the look-ahead, half a window."""
    trained = TrainedModel(conformer)
    streamer, layer = Streamer(trained), trained.layer
    seen = []
    layer.out[0].register_forward_hook(lambda *_: seen.append(streamer.seconds))
    for start in range(0, 16000, 8):
        streamer.push(noise(2.0)[start : start + 8])
    step, half = 0.01, 128 / RATE
    for number, when in enumerate(seen, 1):
        assert when == pytest.approx(number * 0.4 + half, abs=8 / RATE)
    assert len(seen) == 4 and layer.blocks.frames * step == 0.4


def test_a_stream_ends_once(conformer):
    streamer = heard(TrainedModel(conformer), [noise(0.5)])
    with pytest.raises(RuntimeError, match="has ended"):
        streamer.push(noise(0.1))


def test_another_block_at_decoding(conformer):
    samples = noise(2.0)
    texts = {}
    for block in (0.4, 0.2, 10.0):
        trained = TrainedModel(conformer, block=block)
        streamer = heard(trained, chunks_of(samples, np.random.default_rng(0)))
        whole = trained.encode(samples).log_probs.argmax(dim=1).tolist()
        assert streamer._path == whole
        texts[block] = trained.layer.blocks.frames
    assert texts == {0.4: 40, 0.2: 20, 10.0: 1000}


# ------------------------------------------------------------------ refused
def refused(folder, **options):
    with pytest.raises(UserError) as error:
        Streamer(TrainedModel(folder, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_models_that_need_whole_utterances(tmp_path, conformer):
    plain = experiment(tmp_path / "a" / "exp", conf={"block": None})
    assert "places a whole utterance at once" in refused(plain)
    assert "block: 2" in refused(plain)
    offline = make_experiment(tmp_path / "b" / "exp")
    assert "encoder transformer attends to the whole" in refused(offline)
    mvn = {"normalize": "utterance_mvn", "normalize_conf": {}}
    mean = experiment(tmp_path / "c" / "exp", **mvn)
    assert "train with normalize: global_mvn" in refused(mean)
    loud = experiment(tmp_path / "d" / "exp", speech_volume_normalize=0.9)
    assert "speech_volume_normalize" in refused(loud)
    assert "give 0.16 s" in refused(conformer, block=0.1)
    assert "0.4 s makes one output frame" in refused(conformer, stride=60)
    with pytest.raises(ConfigurationError, match="was trained to place whole"):
        TrainedModel(offline, block=1.0)


def test_espnets_own_layer_is_for_espnets_command(tmp_path):
    stock = experiment(tmp_path / "exp")
    config = yaml.safe_load((stock / "config.yaml").read_text())
    config["encoder_conf"]["input_layer"] = "conv2d"
    del config["encoder_conf"]["input_layer_conf"]
    (stock / "config.yaml").write_text(yaml.safe_dump(config))
    model = espnet.asr_task.ASRTask.build_model_from_file(stock / "config.yaml")[0]
    torch.save(model.state_dict(), stock / "valid.acc.ave.pth")
    assert "espnet2.bin.asr_inference_streaming" in refused(stock)


def test_features_without_a_frontend_are_refused(tmp_path):
    with pytest.raises(ConfigurationError) as error:
        experiment(tmp_path / "exp", frontend=None, input_size=20)
    assert "block is in seconds" in str(error.value)


# ------------------------------------------------------------------ latency
def test_the_clock():
    clock = Clock()
    assert clock.work(1.0, 0.25) == 1.25  # waits for the audio
    assert clock.work(1.1, 0.5) == 1.75  # waits for the work before
    assert clock.work(3.0, 0.0) == 3.0
    assert clock.spent == 0.75 and clock.longest == 0.5


def test_the_summary():
    streams = [
        Latency([1.0, 2.0], 0.5, 10.0, 1.0, 0.2),
        Latency([3.0], 1.5, 10.0, 3.0, 0.7),
    ]
    found = summarise_latency(streams)
    assert found["words"] == 3 and found["mean"] == found["median"] == 2.0
    assert found["end"] == 1.0 and found["longest"] == 0.7
    assert found["rtf"] == pytest.approx(0.2)
    line = describe_latency(streams)
    assert "3 words, shown 2.00 s after" in line and "RTF 0.20" in line
    assert describe_latency([Latency([], 0.0, 1.0, 0.0, 0.0)]).startswith("0 words;")


def test_words_are_late_by_the_rest_of_their_block(conformer):
    trained, samples, ticks = TrainedModel(conformer), noise(3.0), iter(range(10**6))
    # a clock that stands still: computing takes no time
    streamer = Streamer(trained, clock=lambda: 0.0 * next(ticks))
    for start in range(0, len(samples), 80):
        streamer.push(samples[start : start + 80])
    streamer.push(samples[:0], final=True)
    words, shown = streamer.words()
    late = streamer.latency()
    assert late.spent == 0.0 and late.end == 0.0 and late.duration == 3.0
    assert late.words == [when - word.end for word, when in zip(words, shown)]
    assert all(when <= 3.0 for when in shown) and shown == sorted(shown)


# ------------------------------------------------------------------ samples in a pipe
def pcm(samples):
    return (samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def wav(samples, rate=RATE, channels=1, width=2):
    file = io.BytesIO()
    with wave_file.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(pcm(samples))
    return file.getvalue()


def test_raw_samples_and_wav_from_a_pipe():
    samples = noise(0.5)
    rounded = np.frombuffer(pcm(samples), "<i2").astype(np.float32) / 32768
    for content in (pcm(samples), wav(samples), pcm(samples) + b"\x01"):
        chunks = list(read_pcm(io.BytesIO(content), RATE, 800))
        assert [len(chunk) for chunk in chunks] == [800] * 5
        assert np.array_equal(np.concatenate(chunks), rounded)
    few = list(read_pcm(io.BytesIO(pcm(samples[:5])), RATE, 800))
    assert np.array_equal(np.concatenate(few), rounded[:5])
    stream = io.BytesIO(pcm(samples))
    next(read_pcm(stream, RATE, 2))
    assert stream.tell() == 12  # of chunks shorter than a header, no more is read


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (wav(np.zeros(100), rate=16000), "16 bits at 16000 Hz"),
        (wav(np.zeros(100), channels=2), "2 channels"),
        (b"fLaC" + bytes(100), "compressed"),
        (b"\x1aE\xdf\xa3" + bytes(100), "compressed"),  # WebM, of browsers
        (b"FORM" + bytes(4) + b"AIFF" + bytes(100), "a format that is not WAV"),
        (b"RIFF" + bytes(4) + b"WAVE", "without samples"),
    ],
)
def test_what_a_pipe_must_not_hold(content, words):
    with pytest.raises(AudioError) as error:
        list(read_pcm(io.BytesIO(content), RATE, 800))
    assert words in str(error.value) and "arecord -f S16_LE -r 8000" in str(error.value)


# ------------------------------------------------------------------ the command
def run(*arguments):
    with pytest.raises(SystemExit) as done:
        transcribe.main([str(argument) for argument in arguments])
    return done.value.code


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, noise(3.37), RATE, subtype="FLOAT")
    return path


def test_the_command_streams_a_file(conformer, recording, capfd):
    assert run("--model", conformer, recording) == 0
    whole = capfd.readouterr().out
    texts = set()
    for chunk in (0.05, 0.3, 5):
        options = ("--stream", "--chunk", chunk)
        assert run("--model", conformer, *options, recording) == 0
        out, err = capfd.readouterr()
        texts.add(out)
        assert "latency: " in err and "RTF" in err
    assert texts == {whole} and whole.strip()
    # what was shown grows at its end
    lines = [line.split("s] ")[1] for line in err.splitlines() if "s] " in line]
    assert lines and lines[-1] == whole.strip()


def test_partial_results_grow(conformer, recording, capfd):
    assert run("--model", conformer, "--stream", recording) == 0
    _, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("[")]
    assert len(lines) > 2
    whens = [float(line[1:].split()[0]) for line in lines]
    texts = [line.split("s] ")[1] for line in lines]
    assert whens == sorted(whens)
    for one, two in zip(texts, texts[1:]):
        assert two.startswith(one)


def test_the_command_streams_a_pipe(conformer, monkeypatch, capfd):
    class Pipe:
        buffer = io.BytesIO(pcm(noise(3.37)))

    monkeypatch.setattr("sys.stdin", Pipe)
    assert run("--model", conformer, "--stream", "-") == 0
    out, err = capfd.readouterr()
    assert out.strip() and "latency: " in err


def test_ctrl_c_ends_a_recording_between_chunks(conformer, monkeypatch, capfd):
    class Pipe:
        buffer = io.BytesIO(pcm(noise(3.37)))

    encode, heard_until = Streamer._encode, []

    def pressed(self, features, final):
        if len(heard_until) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        heard_until.append(self.seconds)
        encode(self, features, final)

    monkeypatch.setattr("sys.stdin", Pipe)
    monkeypatch.setattr(Streamer, "_encode", pressed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run("--model", conformer, "--stream", "-") == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    out, _ = capfd.readouterr()
    assert heard_until[-1] == heard_until[1] < 3.37  # all that had arrived, no more
    samples = np.frombuffer(pcm(noise(3.37)), "<i2").astype(np.float32) / 32768
    own = heard(TrainedModel(conformer), [samples[: round(heard_until[-1] * RATE)]])
    assert out == own.text() + "\n" != "\n"


def test_ctrl_c_ends_a_microphone_that_is_silent(conformer, monkeypatch, capfd):
    def microphone(*_):
        yield noise(1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(transcribe, "read_pcm", microphone)
    assert run("--model", conformer, "--stream", "-") == 0
    assert (
        capfd.readouterr().out
        == heard(TrainedModel(conformer), [noise(1.0)]).text() + "\n"
    )


def test_the_command_writes_formats_and_searches(conformer, recording, tmp_path):
    search = tmp_path / "search.yaml"
    search.write_text("beam_size: 2\nctc_weight: 0.5\nmaxlenratio: 0.5\n")
    given = ("--inference_config", search, "--format", "json,txt")
    for folder, stream in (("whole", ()), ("stream", ("--stream",))):
        out = ("--output_dir", tmp_path / folder)
        assert run("--model", conformer, *given, *out, *stream, recording) == 0
    texts = [(tmp_path / f / "talk.txt").read_text() for f in ("whole", "stream")]
    assert texts[0] == texts[1]


def test_the_command_refuses_in_one_line(tmp_path, recording, conformer, capfd):
    offline = make_experiment(tmp_path / "exp")
    code = run("--model", offline, "--stream", recording)
    assert "does not stream: encoder transformer attends" in code and "\n" not in code
    code = run("--model", conformer, "--stream", "--max_segment", 5, recording)
    assert "--max_segment cuts whole recordings" in code
    for wrong in (("--chunk", 0), ("--chunk", 1e9), ("--block", -1)):
        assert run("--model", conformer, "--stream", *wrong, recording) == 2
        assert "above 0" in capfd.readouterr().err
    code = run("--model", conformer, "--chunk", 5, recording)
    assert "--chunk is for live recognition: give --stream" in code
    code = run("--model", conformer, "--block", 0.05, recording)
    assert "give 0.16 s" in code and "\n" not in code


# ------------------------------------------------------------------ the picture
def test_the_picture_of_a_stream(conformer, recording, tmp_path, capsys):
    picture = tmp_path / "stream.png"
    words = ["--blocks", "0.2", "0.4", "--output", str(picture)]
    plot.main(["stream", "--model", str(conformer), "--audio", str(recording), *words])
    out = capsys.readouterr().out
    streamer = heard(TrainedModel(conformer, block=0.2), [noise(3.37)])
    assert f"block 0.2 s: {streamer.text()};" in out and "block 0.4 s: " in out
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    # what is drawn: a dot a word where it was shown, a bar where it was spoken
    rows = [StreamRow(0.4, *streamer.words()), StreamRow(0.2, *streamer.words())]
    axes = plot_stream(rows, 3.37).axes[0]
    spoken, shown = streamer.words()
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert sorted(dots) == sorted(2 * shown)
    bars = sorted(bar.get_x() for bar in axes.patches)
    assert bars == sorted(2 * [word.start for word in spoken])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["blocks of 0.2 s", "blocks of 0.4 s"]  # from below


def test_the_picture_of_standard_input(tmp_path, recording, conformer, monkeypatch):
    given = ["--audio", "-", "--blocks", "0.4", "--output", str(tmp_path / "x.png")]
    with open(recording, "rb") as file:
        stdin = types.SimpleNamespace(buffer=file)
        monkeypatch.setattr(recordings.sys, "stdin", stdin)
        plot.main(["stream", "--model", str(conformer), *given])
    assert (tmp_path / "x.png").exists()


def test_the_picture_needs_a_model_that_streams(tmp_path, recording):
    offline = make_experiment(tmp_path / "exp")
    given = ["--audio", str(recording), "--output", str(tmp_path / "x.png")]
    with pytest.raises(SystemExit) as error:
        plot.main(["stream", "--model", str(offline), *given])
    assert "was trained to place whole utterances" in str(error.value)
