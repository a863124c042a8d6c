"""Behind each of ESPnet's frontends: when frames are, how many, and what is refused.

Each with the real package where it is installed, and with a stand-in that follows the
package's documentation everywhere (``frontend_models.py``).
"""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_adastride.bin import align, plot
from espnet_adastride.bin import transcribe as transcribe_command
from espnet_adastride.bin.model_options import load_adaptive
from espnet_adastride.errors import AudioError, ConfigurationError, UnknownTimesError
from espnet_adastride.plugin import espnet, trainer
from espnet_adastride.plugin.espnet import TooShortUttError, asr_task
from espnet_adastride.plugin.frontends import frontend_frames, why_unknown
from espnet_adastride.plugin.planning import ModelLengths
from espnet_adastride.report.experiments import draw_pictures
from espnet_adastride.timing.convolutions import (
    Convolution,
    FrameRule,
    shortest,
    stack,
    stacked_length,
)
from espnet_adastride.transcribe import Transcriber
from tests.plugin.frontend_models import (
    CASES,
    HAS_HUGGINGFACE,
    KERNELS,
    SIZE,
    STRIDES,
    build,
    linear,
    stand_in_transformers,
)
from tests.plugin.releases import NEWER
from tests.plugin.test_planning import Experiment
from tests.tiny_models import make_experiment

WAVE2VEC = list(map(Convolution, KERNELS, STRIDES))


@pytest.fixture(params=CASES)
def options(request, tmp_path, monkeypatch):
    """The options of a training with one of the frontends."""
    return CASES[request.param](tmp_path / "upstream", monkeypatch)


CLICKS = (8000, 12345, 16100, 20480, 25550)


def noise(samples, seed=0):
    """Steady, so that Whisper's floor below the loudest place is not reached."""
    wave = np.random.default_rng(seed).normal(0, 0.1, samples)
    return wave.astype(np.float32)


def with_click(wave, time):
    loud = wave.copy()
    loud[time - 20 : time + 20] += 0.9
    return loud


# ---------------------------------------------------------------- the arithmetic
def test_convolutions_by_hand():
    # two of kernel 3: the first centred on steps 1, 3, 5 ...; the second over three of
    # its frames: on 3, 7, 11 ... and over 7 steps
    two = [Convolution(3, 2), Convolution(3, 2)]
    assert stack(two) == FrameRule(4, 3.0, 7)
    assert [stacked_length(n, two) for n in (2, 6, 7, 10, 11)] == [0, 0, 1, 1, 2]
    assert shortest(two) == 7 and shortest(two, 3) == 15
    # padded by one: centred on their number times the stride
    assert stack([Convolution(3, 2, 1)]) == FrameRule(2, 0.0, 3)
    assert Convolution(3, 2, 1).length(1) == 1 and shortest([Convolution(3, 2, 1)]) == 1
    # wav2vec 2.0: 25 ms every 20 ms
    assert stack(WAVE2VEC) == FrameRule(320, 199.5, 400)


@pytest.mark.parametrize("frames", [1, 2, 10, 49])
def test_shortest_is_the_shortest(frames):
    least = shortest(WAVE2VEC, frames)
    assert stacked_length(least, WAVE2VEC) == frames
    assert stacked_length(least - 1, WAVE2VEC) == frames - 1


@pytest.mark.parametrize("padding", [0, 1])
def test_the_rule_is_where_convolutions_read(padding):
    """Against autograd, in float64 with ones: the steps that reach a frame."""
    layers = [Convolution(5, 3, padding), Convolution(2, 2), Convolution(3, 1, padding)]
    rule, steps = stack(layers), 97
    x = torch.ones(1, 1, steps, dtype=torch.float64, requires_grad=True)
    y = x
    for kernel, stride, pad in layers:
        weight = torch.ones(1, 1, kernel, dtype=torch.float64)
        y = torch.nn.functional.conv1d(y, weight, stride=stride, padding=pad)
    assert y.size(2) == stacked_length(steps, layers)
    for frame in range(3, y.size(2) - 3):
        (grad,) = torch.autograd.grad(y[0, 0, frame], x, retain_graph=True)
        read = grad[0, 0].nonzero().flatten()
        first, last = int(read[0]), int(read[-1])
        assert last - first + 1 == rule.field
        assert (first + last) / 2 == rule.centre + frame * rule.hop


# ---------------------------------------------------------------- the frontends
def test_a_click_is_where_the_rule_says(options):
    """The frame that a click changes most is within a frame of the click's time."""
    frontend = build(options)
    rule = frontend_frames(frontend).rule
    wave, errors = noise(32000), []
    for click in CLICKS:
        with torch.no_grad():
            found = [
                frontend(torch.from_numpy(one)[None], torch.tensor([32000]))[0]
                for one in (wave, with_click(wave, click))
            ]
        change = (found[0] - found[1]).flatten(2).abs().sum(dim=2)[0]
        if options["frontend"] == "sliding_window":  # all windows that hold it change
            best = torch.nonzero(change > 0.9 * change.max()).double().mean()
        else:  # by the most: normalisation over time reaches all frames a little
            best = change.argmax()
        errors.append((rule.centre + float(best) * rule.hop - click) / rule.hop)
    assert np.abs(errors).max() < 1
    # nor are they all too early or too late
    assert abs(np.mean(errors)) < 0.5


def test_lengths_are_the_frontends(options):
    """Down to the shortest that it takes; one sample less, and it stops."""
    frontend = build(options)
    known = frontend_frames(frontend)
    rng = np.random.default_rng(1)
    lengths = [known.least, known.least + 1, *rng.integers(known.least, 20000, 8)]
    lengths += [3200, 3201, 16000, 16079, 16080, 16081, 16159, 16160, 16161]
    for samples in (n for n in lengths if n >= known.least):
        with torch.no_grad():
            frames, counts = frontend(
                torch.from_numpy(noise(int(samples)))[None],
                torch.tensor([int(samples)]),
            )
        assert known.length(int(samples)) == int(counts[0]) == frames.size(1)
    if known.least > 1 and options["frontend_conf"].get("model", "bert")[-4:] != "bert":
        with pytest.raises((RuntimeError, ValueError, AssertionError)):
            frontend(
                torch.from_numpy(noise(known.least - 1))[None],
                torch.tensor([known.least - 1]),
            )


def test_in_training_a_batch_must_be_longer(options):
    """transformers masks ten frames at once, and stops at batches of fewer."""
    frontend = build(options).train()
    known = frontend_frames(frontend)
    if known.least_in_training == 1:
        assert options["frontend"] != "huggingface"
        return
    assert stacked_length(known.needed(True), WAVE2VEC) == 10 or known.least == 560
    for samples, works in ((known.needed(True), True), (known.needed(True) - 1, False)):
        batch = torch.from_numpy(noise(samples))[None], torch.tensor([samples])
        if works:
            frontend(*batch)
            continue
        with pytest.raises(ValueError, match="mask_length"):
            frontend(*batch)


@pytest.mark.parametrize("case", ["wavlm", "hubert", "s3prl", "wav2vec_cnn"])
def test_the_field_is_that_of_the_real_convolutions(case, tmp_path, monkeypatch):
    """The samples from the first to the last that reach a frame, by autograd."""
    frontend = build(CASES[case](tmp_path, monkeypatch))
    known = frontend_frames(frontend)
    convolutions = [m for m in frontend.modules() if isinstance(m, torch.nn.Conv1d)]
    convolutions = [m for m in convolutions if m.groups == 1][: len(KERNELS)]
    x = torch.ones(1, 1, 4000, requires_grad=True)
    y = x
    for one in convolutions:
        one.weight.data.abs_().add_(0.1)
        y = one(y) / one.weight[0].numel()
    (grad,) = torch.autograd.grad(y[0, :, 5].sum(), x)
    read = grad[0, 0].nonzero().flatten()
    first, last = int(read[0]), int(read[-1])
    assert last - first + 1 == known.rule.field
    assert (first + last) / 2 == known.rule.centre + 5 * known.rule.hop


# ---------------------------------------------------------------- whole models
def make_model(folder, options, **more):
    """Write an experiment behind the frontend; its trunk reads the middle the most."""
    settings = {"normalize": None, **options, **more}
    exp = make_experiment(folder, **settings)
    path = exp / "valid.acc.ave.pth"
    state = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(5)
    for name, value in state.items():
        if name.startswith("encoder.embed.conv"):
            value.normal_(0.0, 0.3, generator=generator)
        if name.startswith("encoder.embed.conv") and name.endswith("weight"):
            value[..., [0, 2]] *= 0.3
    torch.save(state, path)
    return exp


def give_strides(layer, monkeypatch):
    """Let the layer's strides go from short to long and back, whatever it reads."""
    for one in layer.downsamplers:

        def place(scores, lengths, output_lengths, place=one.place):
            steps = torch.arange(scores.size(1), dtype=scores.dtype)
            given = 1.5 * torch.sin(2 * np.pi * steps / scores.size(1))
            return place(given.expand_as(scores), lengths, output_lengths)

        monkeypatch.setattr(one, "place", place)


def test_a_click_survives_downsampling_and_alignment(options, tmp_path, monkeypatch):
    """CTC hears A where the click changes the frames: align says when it was."""
    if options["frontend_conf"].get("model", "").endswith("bert"):
        pytest.skip(
            "its extractor normalises over all the recording: a click is global"
        )
    transcriber = Transcriber(make_model(tmp_path / "exp", options))
    trained, found = transcriber.trained, []

    def see(module, inputs, output):
        frames = output[0]
        found.append((frames[0] if isinstance(frames, tuple) else frames)[0].detach())

    def hear(frames):
        """A in the frame that differs the most from the one without a click.

        For as long as it lasts: a long frame is a mean, in which a click is small.
        """
        change = (found[-1] - found[0]).abs().sum(dim=1) * widths
        scores = torch.full((1, len(change), len(trained.model.token_list)), -20.0)
        scores[..., trained.model.blank_id] = -1.0
        scores[0, change.argmax(), 3] = 0.0
        return scores

    give_strides(trained.layer, monkeypatch)
    trained.layer.register_forward_hook(see)
    wave, off = noise(32000), []
    edges = trained.encode(wave).times.boundaries
    widths = torch.from_numpy(np.diff(edges))
    monkeypatch.setattr(trained.model.ctc, "log_softmax", hear)
    for click in CLICKS:
        loud = with_click(wave, click)
        (word,) = transcriber.align(loud, "A").words
        index = int(np.searchsorted(edges, word.start, side="right")) - 1
        assert (word.start, word.end) == (edges[index], edges[index + 1])
        # within one frame: in it, or in a neighbour
        first, last = max(index - 1, 0), min(index + 2, len(edges) - 1)
        assert edges[first] <= click / 16000 <= edges[last]
        (even,) = transcriber.align(loud, "A", uniform=True).words
        off.append(abs((even.start + even.end) / 2 - click / 16000))
    # at a constant rate it would be somewhere else
    assert max(off) > 2 * 4 * trained.step


def test_the_shortest_and_the_longest_are_named(options, tmp_path):
    """ESPnet's issue 4659: what is too short is named, and decoded as nothing."""
    transcriber = Transcriber(make_model(tmp_path / "exp", options))
    model = transcriber.trained.model
    known = frontend_frames(model.frontend)
    if known.least > 1:
        with pytest.raises(AudioError, match="a.wav: too short for this model: "):
            transcriber.trained.encode(noise(known.least - 1), "a.wav")
        batch = torch.zeros(1, known.least - 1), torch.tensor([known.least - 1])
        with pytest.raises(TooShortUttError, match="too short for frontend") as error:
            model.encode(*batch)
        assert error.value.limit == known.least
    if options["frontend"] == "whisper":
        assert known.most == 480000
        with pytest.raises(AudioError, match=r"encodes only the first 480000 \(30 s\)"):
            transcriber.trained.encode(noise(480001), "long.wav")
    # beside a longer one it has no frames, and no number of frames below 0
    if options["frontend_conf"].get("model", "").endswith("bert"):
        return  # its extractor makes no features of less than a window
    lengths = torch.tensor([16000, 100])
    with torch.no_grad():
        _, counts = model.encode(torch.from_numpy(noise(32000)).view(2, -1), lengths)
    assert counts[0] > 0 and counts[1] >= 0


def test_lengths_of_batches_are_planned(options, tmp_path):
    if options["frontend"] == "fused" and not NEWER:
        pytest.skip("ESPnet 202511 gives all utterances the batch's length")
    transcriber = Transcriber(make_model(tmp_path / "exp", options))
    model, lengths = transcriber.trained.model, ModelLengths(transcriber.trained.model)
    samples = [16000, 12345, 4000]
    with torch.no_grad():
        _, expected = model.encode(
            torch.from_numpy(noise(48000)).view(3, -1), torch.tensor(samples)
        )
    assert lengths.frames(lengths.features(samples)) == expected.tolist()


def test_pictures_in_training_have_the_frontends_times(options, tmp_path):
    transcriber = Transcriber(make_model(tmp_path / "exp", options))
    wave = torch.from_numpy(noise(16000))[None]
    batch = {"speech": wave, "speech_lengths": torch.tensor([16000])}
    figure = trainer.draw(transcriber.trained.model, "a", batch, 0)
    assert figure is not None
    assert transcriber.trained.why_uniform() is None
    hop = frontend_frames(transcriber.trained.model.frontend).rule.hop
    assert transcriber.trained.step == hop / 16000


# ---------------------------------------------------------------- ESPnet's own layers
def test_espnets_input_layers_have_the_same_grid(tmp_path, monkeypatch):
    """conv2d over wav2vec's frames: 20 l + 12.5 ms, of which 4 l + 3 is the middle."""
    options = CASES["s3prl_stand_in"](tmp_path, monkeypatch)
    exp = make_experiment(tmp_path / "exp", "conv2d", **options)
    times = Transcriber(exp).trained.encode(noise(16000)).times
    # 50 features make 11 frames, the first of which is centred on feature 3
    centre = 0.02 * 3 + 199.5 / 16000
    assert times.known and len(times.boundaries) == 12
    assert times.boundaries[1:3] == pytest.approx([centre + 0.04, centre + 0.12])


# ---------------------------------------------------------------- what is unknown
class Unknown(torch.nn.Module):
    """A frontend that nothing is known of: 100 values every 100 samples."""

    def output_size(self):
        return 100

    def forward(self, waves, lengths):
        return waves.unfold(1, 100, 100), lengths // 100


class UnknownFrontend(Unknown, asr_task.AbsFrontend):
    pass


@pytest.fixture
def unknown(tmp_path, monkeypatch):
    """An experiment behind it."""
    classes = asr_task.frontend_choices.classes
    monkeypatch.setitem(classes, "unknown", UnknownFrontend)
    options = {"frontend": "unknown", "frontend_conf": {}}
    exp = make_experiment(tmp_path / "exp", **options)
    soundfile.write(tmp_path / "a.wav", noise(32000), 16000)
    return exp


WHAT = r"frontend UnknownFrontend: when its frames are is not known .*; known are "


def one_line(text):
    assert "\n" not in text.strip()


def test_times_of_unknown_frames_are_refused_in_python(unknown):
    with pytest.raises(UnknownTimesError, match=WHAT + ".*times=False") as error:
        Transcriber(unknown)
    one_line(str(error.value))
    text = Transcriber(unknown, times=False)(noise(32000), rate=16000)
    assert text.words == [] and text.segments[0].times == "none"
    # another stride counts from the frames, whenever they are
    faster = Transcriber(unknown, times=False, stride=9).trained
    encoded = faster.encode(noise(32000), times=False)
    assert len(encoded.frames) == 36 and encoded.times is None
    with pytest.raises(UnknownTimesError, match=WHAT):
        faster.encode(noise(32000))
    with pytest.raises(UnknownTimesError, match=WHAT):
        faster.step


def test_the_text_is_the_same_without_times(tmp_path, monkeypatch):
    exp = make_model(tmp_path / "exp", CASES["default"](tmp_path, monkeypatch))
    wave = noise(32000)
    for config in (None, {"beam_size": 2, "ctc_weight": 0.5}):
        texts = [
            Transcriber(exp, inference_config=config, times=times)(wave, rate=16000)
            for times in (True, False)
        ]
        assert texts[0].text == texts[1].text and not texts[1].words


def test_commands_refuse_times_of_unknown_frames(unknown, tmp_path):
    audio = str(tmp_path / "a.wav")
    model = ["--model", str(unknown)]
    for kind in ("srt", "txt,json"):
        output = ["--format", kind, "--output_dir", str(tmp_path / "out")]
        with pytest.raises(SystemExit, match=WHAT + ".*--format txt") as error:
            transcribe_command.main([*model, *output, audio])
        one_line(str(error.value))
    with pytest.raises(SystemExit) as done:  # the text alone
        transcribe_command.main([*model, audio])
        raise SystemExit(0)
    assert not done.value.code
    words = [*model, "--audio", audio]
    for times in ("positions", "uniform"):
        options = ["--text", "A B", "--output_dir", str(tmp_path), "--times", times]
        with pytest.raises(SystemExit, match=WHAT) as error:
            align.main([*words, *options])
        one_line(str(error.value))
    with pytest.raises(SystemExit, match=WHAT) as error:
        plot.main(["utterance", *words, "--output", str(tmp_path / "a.png")])
    one_line(str(error.value))


def test_espnets_aligners_refuse_unknown_frames(unknown):
    files = unknown / "config.yaml", unknown / "valid.acc.ave.pth"
    if espnet.asr_align is not None:
        aligner = espnet.asr_align.CTCSegmentation(
            *files, fs=16000, kaldi_style_text=False
        )
        with pytest.raises(UnknownTimesError, match=WHAT):
            aligner(noise(32000), ["AB"], fs=16000)
    if espnet.forced_align is not None:
        aligner = espnet.forced_align.ForcedAligner(
            asr_train_config=files[0], asr_model_file=files[1]
        )
        with pytest.raises(UnknownTimesError, match="espnet2.bin.align: " + WHAT):
            aligner(noise(32000), ["AB"])


def test_the_report_says_why_there_are_no_pictures(unknown, monkeypatch):
    wave = str(unknown.parent / "a.wav")
    decoded = SimpleNamespace(ref={"a": "A B"})
    systems = [SimpleNamespace(decoded=decoded, aligned=[])]
    experiment = SimpleNamespace(folder=unknown, name="exp")
    parser = plot.get_parser()

    def load(folder):
        options = ["utterance", "--model", str(folder), "--audio", "a", "--output", "o"]
        return load_adaptive(parser.parse_args(options))

    said = []
    drawn, (note,) = draw_pictures(
        load, 1, 1.0, said.append, experiment, systems, lambda decoded: {"a": wave}
    )
    assert drawn == [] and [f"{line}." for line in said] == [note]
    assert note.startswith("exp: no pictures of strides: ")
    assert "frontend UnknownFrontend: when its frames are is not known" in note


@pytest.mark.parametrize("word", ["tell_strides", "true_times"])
def test_what_tells_the_encoder_of_times_needs_them(word, tmp_path, monkeypatch):
    classes = asr_task.frontend_choices.classes
    monkeypatch.setitem(classes, "unknown", UnknownFrontend)
    conformer = {"encoder": "conformer"}
    encoder = {"rel_pos_type": "latest", "use_cnn_module": False}
    more = {"conf": {"stride": 4, word: True}, "encoder_options": encoder}
    with pytest.raises(ConfigurationError, match=f"{word} needs the times.*Unknown"):
        make_experiment(
            tmp_path / "exp", frontend="unknown", frontend_conf={}, **conformer, **more
        )
    options = CASES["wav2vec_cnn"](tmp_path, monkeypatch)
    make_experiment(tmp_path / "known", **options, **conformer, **more)


def test_windows_of_samples_need_sinc(tmp_path, monkeypatch):
    options = CASES["sliding_window"](tmp_path, monkeypatch)
    options.update(linear(400))
    with pytest.raises(ConfigurationError, match="preencoder: sinc"):
        make_experiment(tmp_path / "exp", **options)


def test_wrong_lengths_are_refused(tmp_path, monkeypatch):
    """ESPnet's own mistakes: repeated frames uncounted; samples taken for frames."""
    options = CASES["s3prl_stand_in"](tmp_path, monkeypatch)
    options["frontend_conf"]["frontend_conf"]["tile_factor"] = 2
    with pytest.raises(ConfigurationError, match="with tile_factor ESPnet repeats"):
        make_experiment(tmp_path / "exp", **options)
    if not HAS_HUGGINGFACE:
        stand_in_transformers(monkeypatch)
        options = {"frontend": "huggingface", "frontend_conf": {"model": "some/model"}}
        with pytest.raises(ConfigurationError, match="use ESPnet 202609 or later"):
            make_experiment(tmp_path / "other", **options, **linear(SIZE))


def test_upstreams_without_convolutions_are_unknown(tmp_path, monkeypatch):
    frontend = build(CASES["s3prl_stand_in"](tmp_path, monkeypatch))
    frontend.hop_length = 160  # mr-hubert's layers have hops of their own
    with pytest.raises(UnknownTimesError, match="no convolutions .* hop of 160"):
        frontend_frames(frontend)
    frontend.upstream.upstream.model = torch.nn.Identity()
    with pytest.raises(UnknownTimesError, match="s3prl .*known are default"):
        frontend_frames(frontend)


def test_layers_left_out_stop_s3prl(tmp_path, monkeypatch):
    frontend = build(CASES["s3prl_stand_in"](tmp_path, monkeypatch))
    assert frontend_frames(frontend).untrainable is None
    config = type("Config", (), {"layerdrop": 0.1, "mask_time_prob": 0})()
    frontend.upstream.upstream.model.config = config
    assert "set layerdrop to 0.0" in frontend_frames(frontend).untrainable


def test_other_preencoders_are_unknown():
    class Model:
        preencoder, frontend = torch.nn.Identity(), None

    assert "preencoder Identity" in why_unknown(Model)
    Model.preencoder = None
    assert why_unknown(Model) is None


# ---------------------------------------------------------------- the plan
def planned(folder, options, seconds=(1.0, 1.5, 2.0)):
    sets = {
        mode: {f"{mode}{n}": (int(16000 * s), "A B C") for n, s in enumerate(seconds)}
        for mode in ("train", "valid")
    }
    experiment = Experiment(folder, sets)
    experiment.configure("input_layer: adastride, input_layer_conf: {stride: 4}")
    settings = yaml.safe_load(experiment.config.read_text())
    settings.update(options, batch_bins=1000000)
    experiment.config.write_text(yaml.safe_dump(settings))
    return experiment


def test_the_plan_says_what_the_frames_are(tmp_path, monkeypatch):
    options = CASES["whisper_stand_in"](tmp_path, monkeypatch)
    page = planned(tmp_path, options).plan("--plan_seconds", "0")
    assert (
        "frontend whisper: 50 frames a second, frame l centred on 20 l + 0 ms, each "
        "made of 65 ms; an utterance needs 0.0126 s; it hears 30 s at most" in page
    )
    assert "frames a second behind the input layer | 12.7 |" in page
    page = planned(tmp_path, CASES["default"](tmp_path, monkeypatch)).plan()
    assert "frontend default: 100 frames a second, frame l centred on 10 l" in page


def test_the_plan_refuses_what_the_frontend_cannot_hear(tmp_path, monkeypatch):
    options = CASES["whisper_stand_in"](tmp_path, monkeypatch)
    experiment = planned(tmp_path, options, (1.0, 31.0))
    with pytest.raises(SystemExit, match=r"train1 \(31 s\).*--max_wav_duration 30"):
        experiment.plan("--plan_seconds", "0")
    experiment = planned(tmp_path, options, (1.0, 0.005))
    with pytest.raises(SystemExit, match=r"train1 \(0.005 s\).*--min_wav_duration 0"):
        experiment.plan("--plan_seconds", "0")
    experiment = planned(tmp_path, options, (1.0, 0.3))  # 15 features, 4 frames
    with pytest.raises(SystemExit, match=r"CTC cannot align .*train1 \(4 of 5\)"):
        experiment.plan("--plan_seconds", "0")


def test_the_plan_refuses_batches_that_transformers_would(tmp_path, monkeypatch):
    options = CASES["huggingface_stand_in"](tmp_path, monkeypatch)
    experiment = planned(tmp_path, options, (0.18, 0.19))
    with pytest.raises(SystemExit, match="too short for frontend huggingface") as error:
        experiment.plan("--plan_seconds", "0", "--max_unalignable", "1")
    # ten frames are 25 + 9 x 20 ms
    assert "--min_wav_duration 0.205" in str(error.value)


def test_the_plan_says_what_it_does_not_know(tmp_path, monkeypatch):
    classes = asr_task.frontend_choices.classes
    monkeypatch.setitem(classes, "unknown", UnknownFrontend)
    options = {"frontend": "unknown", "frontend_conf": {}}
    page = planned(tmp_path, options).plan("--plan_seconds", "0")
    assert "not planned: frontend UnknownFrontend: when its frames are is not" in page
