"""Models that read extracted features: times, planning, transcription, packing."""

import json
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

pytest.importorskip("espnet2")

import espnet_adastride.plugin  # noqa: E402,F401  (registers the words)
from espnet_adastride.bin import (  # noqa: E402
    align,
    pack_model,
    plan_training,
    plot,
)
from espnet_adastride.corpora.features import Upstream, build_upstream  # noqa: E402
from espnet_adastride.corpora.upstream_record import UpstreamRecord  # noqa: E402
from espnet_adastride.downsampling.stages import StageTrace  # noqa: E402
from espnet_adastride.errors import (  # noqa: E402
    ConfigurationError,
    ModelError,
    UnknownTimesError,
)
from espnet_adastride.experiments.measure import measure  # noqa: E402
from espnet_adastride.plugin import planning, trained  # noqa: E402
from espnet_adastride.plugin.espnet import LinearProjection, asr_task  # noqa: E402
from espnet_adastride.plugin.frame_times import (  # noqa: E402
    FeatureGrid,
    frame_times,
)
from espnet_adastride.plugin.frontends import keeps_frames  # noqa: E402
from espnet_adastride.plugin.layer_sum import LayerSum  # noqa: E402
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling  # noqa: E402
from espnet_adastride.transcribe import Transcriber  # noqa: E402
from tests.corpora.upstreams import save_wave_model  # noqa: E402
from tests.plugin.test_planning import Experiment  # noqa: E402
from tests.tiny_models import make_experiment  # noqa: E402

RECORD = UpstreamRecord(
    "transformers", "/gone", "0" * 64, 6, 320, 160.0, 320, "ceil", (0, 1)
)


class Bands(Upstream):
    """Twelve values every 320 samples: means of parts of them; frames are known."""

    record = RECORD

    def compute(self, wave):
        padded = np.pad(np.abs(wave), (0, -len(wave) % 320)).reshape(-1, 320)
        return padded[:, :312].reshape(len(padded), 12, 26).mean(axis=2)


def make_model(folder, record=RECORD, **options):
    """Write an experiment whose model reads features, and upstream.yaml beside it."""
    conf = {"stride": 4, "channels": 4, "score_bound": 2.0, "trunk": "conv1d"}
    several = len(record.layers) > 1
    if several:
        options["preencoder"] = "layer_sum"
        options["preencoder_conf"] = {"layers": len(record.layers), "size": record.size}
    make_experiment(
        folder, conf=conf, input_size=record.dimensions, frontend_conf={}, **options
    )
    (folder / "upstream.yaml").write_text(record.to_yaml())
    return folder


@pytest.fixture
def bands(monkeypatch):
    """Let the record be rebuilt as what it stands for."""
    monkeypatch.setattr(trained, "rebuild_upstream", lambda *_: Bands())


def speech(seconds, seed=0):
    noise = np.random.default_rng(seed).normal(0, 0.1, round(16000 * seconds))
    return (noise * np.sin(np.arange(len(noise)) / 4000) ** 2).astype(np.float32)


# ---------------------------------------------------------------- the sum of layers
def test_layer_sum_by_hand():
    layer = LayerSum(2, 3)
    x = torch.tensor([[[1.0, 2.0, 3.0, 5.0, 6.0, 7.0]]])
    lengths = torch.tensor([1])
    mean, same = layer(x, lengths)
    torch.testing.assert_close(mean, torch.tensor([[[3.0, 4.0, 5.0]]]))
    assert same is lengths and layer.output_size() == 3
    with torch.no_grad():
        layer.weights.copy_(torch.tensor([0.0, np.log(3.0)]))
    expected = torch.tensor([4.0, 5.0, 6.0])
    torch.testing.assert_close(layer(x, lengths)[0][0, 0], expected)


def test_layer_sum_learns_its_weights():
    layer = LayerSum(2, 3)
    layer(torch.arange(6.0).view(1, 1, 6), torch.tensor([1]))[0].sum().backward()
    # d/dw_k = a_k (x_k - mean): layer 1 is larger by 3 in each of 3 values
    torch.testing.assert_close(layer.weights.grad, torch.tensor([-2.25, 2.25]))


def test_layer_sum_refuses_other_frames():
    with pytest.raises(ConfigurationError, match="2 layers of 3 values .* have 5"):
        LayerSum(2, 3)(torch.zeros(1, 1, 5), torch.tensor([1]))
    for layers in (0, "2", 1.5, None):
        with pytest.raises(ConfigurationError, match="preencoder_conf: layers must be"):
            LayerSum(layers, 3)


# ---------------------------------------------------------------- times
def times_of(positions, features, grid):
    layer = AdaptiveSubsampling(
        20, 8, pos_enc=torch.nn.Identity(), method="adastride", stride=[2], channels=4
    ).eval()
    model = SimpleNamespace(
        encoder=SimpleNamespace(embed=layer), frontend=None, preencoder=None
    )
    trace = [StageTrace(None, None, torch.tensor([positions]), None)]
    frames = layer.output_lengths(features)
    return frame_times(model, trace, 320 * features, 16000, frames, grid)


def test_times_by_hand():
    """Steps of 20 ms centred on their beginnings, as Whisper's are.

    The position crosses 0.5 between the centres of steps 2 and 3, at 3 steps: 10 ms
    before step 3's centre at 60 ms.
    """
    times = times_of([0.0, 0.0, 0.0, 1.0], 4, FeatureGrid(4, 0.02, 0.0))
    np.testing.assert_allclose(times.boundaries, [0, 0.05, 0.08])
    np.testing.assert_allclose(times.uniform, [0, 0.02, 0.08])


def test_times_of_features_centred_later():
    """The same for frames centred 12.5 ms later, as WavLM's are."""
    times = times_of([0.0, 0.0, 0.0, 1.0], 4, FeatureGrid(4, 0.02, 0.0125))
    np.testing.assert_allclose(times.boundaries, [0, 0.0625, 0.08])


def test_without_a_grid_there_are_no_times():
    with pytest.raises(UnknownTimesError, match="nothing says when their frames are"):
        times_of([0.0, 0.0, 0.0, 1.0], 4, None)


def test_preencoders_that_keep_frames():
    assert keeps_frames(None) and keeps_frames(LinearProjection(3, 2))
    assert keeps_frames(LayerSum(2, 3)) and not keeps_frames(torch.nn.Identity())


# ---------------------------------------------------------------- trained models
def test_a_recording_is_transcribed_and_aligned(tmp_path, bands):
    transcriber = Transcriber(make_model(tmp_path / "exp"))
    wave = speech(1.5)
    encoded = transcriber.trained.encode(wave)
    assert encoded.speech.shape == (75, 12)
    assert transcriber.trained.rate == 16000 and transcriber.trained.step == 0.02
    assert len(encoded.frames) == 19 == len(encoded.times.boundaries) - 1
    assert encoded.times.boundaries[-1] == pytest.approx(1.5)
    widths = np.diff(encoded.times.boundaries)
    assert widths.max() > 1.3 * widths.min()  # adaptive, not spread evenly
    assert transcriber.trained.why_uniform() is None
    segment = transcriber.align(wave, "A B")
    assert [word.text for word in segment.words] == ["A", "B"]
    assert transcriber(wave, rate=16000).segments


def test_the_encoder_reads_what_the_features_are(tmp_path, bands):
    """Against ESPnet's model called by hand on the features."""
    transcriber = Transcriber(make_model(tmp_path / "exp"))
    wave = speech(1.0)
    encoded = transcriber.trained.encode(wave)
    # what a beam search would be given, too: nothing has changed it
    np.testing.assert_array_equal(encoded.speech, Bands()(wave))
    features = torch.from_numpy(Bands()(wave))[None]
    with torch.no_grad():
        expected, _ = transcriber.trained.model.encode(features, torch.tensor([50]))
    torch.testing.assert_close(encoded.frames, expected[0])


def test_pictures_and_alignments_take_recordings(tmp_path, bands, capsys):
    exp = make_model(tmp_path / "exp")
    soundfile.write(tmp_path / "a.wav", speech(2.0), 16000)
    words = ["--model", str(exp), "--audio", str(tmp_path / "a.wav")]
    plot.main(["utterance", *words, "--output", str(tmp_path / "a.png")])
    # 100 features of 20 ms, to 50, to 25
    printed = capsys.readouterr().out
    assert "25 frames in 2.00 s, 12.5 per second; mean 80 ms = 4.0 input" in printed
    align.main([*words, "--text", "A B", "--output_dir", str(tmp_path / "times")])
    path = tmp_path / "times" / "words.ctm"
    rows = [line.split() for line in path.read_text().splitlines()]
    assert [row[4] for row in rows] == ["A", "B"]
    ends = [float(row[2]) + float(row[3]) for row in rows]
    assert 0 < ends[0] <= ends[1] <= 2.0


def test_another_stride_and_a_beam(tmp_path, bands):
    exp = make_model(tmp_path / "exp")
    wave = speech(1.5)
    faster = Transcriber(exp, stride=6)
    assert len(faster.trained.encode(wave).frames) == 13
    beam = Transcriber(exp, inference_config={"beam_size": 2, "ctc_weight": 0.5})
    assert beam(wave, rate=16000).segments


def test_what_features_are_of_must_be_known(tmp_path, bands):
    exp = make_model(tmp_path / "exp")
    (exp / "upstream.yaml").unlink()
    with pytest.raises(ModelError, match="upstream.yaml, which describes them, is not"):
        Transcriber(exp)
    (exp / "upstream.yaml").write_text("upstream: whisper\n")
    with pytest.raises(ModelError, match="does not describe the source"):
        Transcriber(exp)
    fields = {**RECORD.__dict__, "size": 5}
    (exp / "upstream.yaml").write_text(UpstreamRecord(**fields).to_yaml())
    with pytest.raises(ModelError, match="of 10 values, and the model reads 12"):
        Transcriber(exp)


def test_a_missing_upstream_is_named(tmp_path):
    with pytest.raises(ModelError, match="/gone.*does not exist.*--upstream_model"):
        Transcriber(make_model(tmp_path / "exp"))


def test_models_that_read_audio_take_no_upstream(tmp_path):
    exp = make_experiment(tmp_path / "exp")
    with pytest.raises(ConfigurationError, match="reads audio; leave it out"):
        Transcriber(exp, upstream_model="/some/folder")


def test_with_a_real_upstream_that_moved(tmp_path):
    """Packed with what its features are of, and unpacked beside another copy of it."""
    save_wave_model(tmp_path / "first")
    record = build_upstream(f"transformers:{tmp_path / 'first'}", "1 3").record
    exp = make_model(tmp_path / "exp", record)
    wave = speech(1.2)
    expected = Transcriber(exp).trained.encode(wave).frames
    archive = tmp_path / "model.zip"
    pack_model.main(
        [
            *("--asr_train_config", str(exp / "config.yaml")),
            *("--asr_model_file", str(exp / "valid.acc.ave.pth")),
            *("--option", str(exp / "upstream.yaml"), "--outpath", str(archive)),
        ]
    )
    assert any(n.endswith("upstream.yaml") for n in zipfile.ZipFile(archive).namelist())
    card = (tmp_path / "README.md").read_text()
    assert "pip install transformers" in card and record.sha256 in card
    assert 'Transcriber("model.zip", upstream_model="FOLDER")' in card
    assert "Speech2Text" not in card  # which would read the wave as features
    shutil.move(tmp_path / "first", tmp_path / "second")
    with pytest.raises(ModelError, match="--upstream_model FOLDER"):
        Transcriber(archive)
    moved = Transcriber(archive, upstream_model=tmp_path / "second")
    torch.testing.assert_close(moved.trained.encode(wave).frames, expected)


# ---------------------------------------------------------------- planning
@pytest.fixture
def planned(tmp_path):
    """A training on features: shapes are frames, 20 ms each."""
    sets = {
        mode: {f"{mode}{n}": (f, "A B C") for n, f in enumerate(frames)}
        for mode, frames in (("train", [50, 55, 80, 120]), ("valid", [60, 90]))
    }
    experiment = Experiment(tmp_path, sets)
    for mode in sets:
        path = tmp_path / f"{mode}_speech"
        path.write_text("".join(f"{k} {n},12\n" for k, (n, _) in sets[mode].items()))
        experiment.options.append(f"--{mode}_data_path_and_name_and_type")
        experiment.options.append(f"{tmp_path}/feats.scp,speech,kaldi_ark")
    (tmp_path / "upstream.yaml").write_text(RECORD.to_yaml())
    options = ["--input_size", "12", "--preencoder", "layer_sum"]
    options += ["--preencoder_conf", "layers=2", "--preencoder_conf", "size=6"]
    experiment.options += options
    experiment.configure("input_layer: adastride, input_layer_conf: {stride: 4}")
    return experiment


def test_the_plan_counts_frames_and_seconds(planned):
    page = planned.plan("--plan_seconds", "2")
    # 305 frames of 20 ms
    assert "| hours | 0.00 | 0.00 |" in page
    assert "frames a second behind the input layer | 12.6 |" in page
    assert "| 4 | 2 |" in page and "multiply-accumulates a second" in page
    assert "s of audio:" in page  # steps were measured


def test_the_plan_refuses_what_ctc_cannot_align(planned):
    planned.configure("input_layer: adastride, input_layer_conf: {stride: 20}")
    with pytest.raises(SystemExit, match="CTC cannot align"):
        plan_training.main(
            ["--config", str(planned.config), *planned.options, "--plan_seconds", "0"]
        )


def test_lengths_are_the_models(planned):
    args = planned.args()
    model = asr_task.ASRTask.build_model(args).eval()
    lengths = planning.ModelLengths(model, 12)
    assert lengths.features([50, 77]) == [50, 77]
    with torch.no_grad():
        _, expected = model.encode(torch.randn(2, 77, 12), torch.tensor([50, 77]))
    assert lengths.frames([50, 77]) == expected.tolist() == [13, 20]
    assert planning.sampling_rate(args) == 50


def test_features_of_unknown_rate_are_not_planned(planned):
    (planned.folder / "upstream.yaml").unlink()
    assert "not planned" in planned.plan("--plan_seconds", "0")


# ---------------------------------------------------------------- measuring
def test_measured_figures(planned, tmp_path):
    args = planned.args()
    model = asr_task.ASRTask.build_model(args)
    exp = tmp_path / "exp"
    exp.mkdir(exist_ok=True)
    torch.save(model.state_dict(), exp / "valid.acc.ave.pth")
    (exp / "config.yaml").write_text(yaml.safe_dump({**vars(args)}))
    (exp / "upstream.yaml").write_text(RECORD.to_yaml())
    data = tmp_path / "data"
    data.mkdir()
    # "A B C" is 5 characters of 5 kinds: 5 frames are needed, 4 x 4 + 1 features make 5
    (data / "text").write_text("u1 A B C\nu2 A B C\n")
    (data / "utt2num_frames").write_text("u1 16\nu2 17\n")
    figures = measure(exp / "config.yaml", exp / "valid.acc.ave.pth", {"test": data})
    assert json.loads(json.dumps(figures)) == figures  # no numbers of numpy
    assert figures["unalignable"] == {"test": [1, 2]}
    assert figures["parameters"] == sum(p.numel() for p in model.parameters())
    assert 0 < figures["layer_macs_per_second"] < figures["macs_per_second"]
    assert figures["seconds_per_second"] > 0
    assert figures["upstream_seconds_per_second"] is None  # /gone
