"""The plan of a training asks ESPnet: lengths, batches and cost are ESPnet's own."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from espnet2.tasks.asr import ASRTask

import espnet_adastride.plugin  # noqa: F401  (registers the words)
from espnet_adastride.bin import plan_training
from espnet_adastride.networks.macs import macs_by_module
from espnet_adastride.plugin import planning, training_cost
from espnet_adastride.plugin.espnet import TooShortUttError
from tests.plugin.releases import NEWER, conv2d_frames

TOKENS = ["<blank>", "<unk>", "A", "B", "C", "<space>", "<sos/eos>"]
CONFIG = """\
encoder: {encoder}
encoder_conf: {{output_size: 16, attention_heads: 2, num_blocks: 1, {conf}}}
decoder: transformer
decoder_conf: {{attention_heads: 2, linear_units: 16, num_blocks: 1}}
model_conf: {{ctc_weight: 0.5}}
frontend_conf: {{n_fft: 512, win_length: 400, hop_length: 160, n_mels: 40, fs: 16k}}
batch_type: numel
batch_bins: 100000
num_workers: 0
normalize: utterance_mvn
"""


class Experiment:
    """Shapes, text and a configuration in a folder."""

    def __init__(self, folder, sets, **more):
        """``sets``: {mode: {utterance: (samples, text)}}."""
        (folder / "tokens.txt").write_text("".join(f"{t}\n" for t in TOKENS))
        self.options = ["--token_list", str(folder / "tokens.txt")]
        self.options += ["--token_type", "char", "--output_dir", str(folder / "exp")]
        for mode, utterances in sets.items():
            files = {
                "speech": {k: str(n) for k, (n, _) in utterances.items()},
                "text": {k: f"{len(t)},7" for k, (_, t) in utterances.items()},
                "words": {k: t for k, (_, t) in utterances.items()},
            }
            for name, table in files.items():
                path = folder / f"{mode}_{name}"
                path.write_text("".join(f"{k} {v}\n" for k, v in table.items()))
            for name in ("speech", "text"):
                self.options += [f"--{mode}_shape_file", f"{folder}/{mode}_{name}"]
            self.options.append(f"--{mode}_data_path_and_name_and_type")
            self.options.append(f"{folder}/{mode}_words,text,text")
        self.config = folder / "train.yaml"
        self.folder = folder
        self.configure(**more)

    def configure(self, conf="input_layer: conv2d", encoder="conformer", more=""):
        if encoder == "conformer":
            conf += ", rel_pos_type: latest"
        self.config.write_text(CONFIG.format(encoder=encoder, conf=conf) + more)

    def args(self, *options):
        words = ["--config", str(self.config), *self.options, *options]
        return ASRTask.get_parser().parse_args(words)

    def plan(self, *options):
        words = ["--config", str(self.config), *self.options, *options]
        plan_training.main([*words, "--plan", str(self.folder / "plan.md")])
        return (self.folder / "plan.md").read_text()


def utterances(prefix, seconds, text="A B C"):
    return {f"{prefix}{i}": (int(s * 16000), text) for i, s in enumerate(seconds)}


@pytest.fixture
def experiment(tmp_path):
    sets = {
        "train": utterances("t", [1.0, 1.07, 1.3, 2.0, 2.11, 0.9]),
        "valid": utterances("v", [1.5, 1.0]),
    }
    return Experiment(tmp_path, sets)


# ------------------------------------------------------------------ lengths
@pytest.mark.parametrize("encoder", ["conformer", "e_branchformer", "transformer"])
@pytest.mark.parametrize(
    "conf",
    [
        "input_layer: conv2d",
        "input_layer: conv2d1",
        "input_layer: conv2d2",
        "input_layer: conv2d6",
        "input_layer: conv2d8",
        "input_layer: conv1d1",
        "input_layer: conv1d2",
        "input_layer: conv1d3",
        "input_layer: linear",
        "input_layer: adastride, input_layer_conf: {stride: 8}",
        "input_layer: adastride_f, input_layer_conf: {stride: 2.5}",
        "input_layer: strided_conv, input_layer_conf: {stride: 6}",
        "num_blocks: 2, input_layer: adastride, input_layer_conf: "
        "{stride: [2, 3.5], after_blocks: [0, 1]}",
        "num_blocks: 2, input_layer: adastride, input_layer_conf: "
        "{stride: [2, 3.5], after_blocks: [0, 1], restore: true}",
        "num_blocks: 2, input_layer: hnet, input_layer_conf: {stride: 4, after_blocks: "
        "[0, 1], restore: true, exact: false, method: [avg_pool, hnet]}",
    ],
)
def test_lengths_are_those_of_a_forward(experiment, encoder, conf):
    if "conv1d" in conf and encoder != "e_branchformer":
        pytest.skip("of ESPnet's encoders, e_branchformer alone has these words")
    experiment.configure(conf, encoder)
    model = ASRTask.build_model(experiment.args()).eval()
    lengths = planning.ModelLengths(model)
    # the last one is too short for conv2d8 were it alone
    samples = [33777, 33600, 16159, 16160, 9000, 4800, 1900]
    speech = torch.zeros(len(samples), samples[0])
    with torch.no_grad():
        features, feature_lengths = model.frontend(speech, torch.tensor(samples))
        _, frame_lengths, _ = model.encoder(features, feature_lengths)
    assert lengths.features(samples) == feature_lengths.tolist()
    assert lengths.frames(feature_lengths.tolist()) == frame_lengths.tolist()
    limit = lengths.limit
    limits = {"conv2d1": 5, "conv2d6": 11, "conv2d8": 15, "linear": 0}
    limits.update({"conv1d1": 5, "conv1d2": 5})
    assert limit == limits.get(conf.split("input_layer: ")[1], 7)
    if limit:  # the limit is where ESPnet stops
        out, _, _ = model.encoder(torch.zeros(1, limit, 40), torch.tensor([limit]))
        assert out.size(1) >= 1
        with pytest.raises(TooShortUttError):
            model.encoder(torch.zeros(1, limit - 1, 40), torch.tensor([limit - 1]))


def test_batches_are_the_trainers_and_repeats_are_counted(experiment):
    args = experiment.args("--batch_bins", "70000")
    lengths = planning.ModelLengths(ASRTask.build_model(args))
    one = planning.set_lengths(args, "train", lengths)
    # ascending; a batch closes when count x (longest + 5 x 7) exceeds 70,000
    assert sorted(map(sorted, one.batches)) == [["t0", "t1", "t2", "t5"], ["t3", "t4"]]
    assert sorted(one.padded()) == [2 * 33760, 4 * 20800]
    assert set(one.needed.values()) == {5}
    text = experiment.folder / "train_words"
    text.write_text(text.read_text().replace("A B C", "A  AA", 1))
    again = planning.set_lengths(args, "train", lengths)
    assert again.needed == {**one.needed, "t0": 7}  # A _ _ A A has two repeats


def test_the_highest_of_train_strides_gives_the_fewest_frames(experiment):
    layer = "{stride: 4, train_strides: [2, 40]}"
    experiment.configure(f"input_layer: adastride, input_layer_conf: {layer}")
    args = experiment.args()
    lengths = planning.ModelLengths(ASRTask.build_model(args))
    one = planning.set_lengths(args, "train", lengths)
    # 101 frames at [sqrt(40), sqrt(40)]: 16, 3
    assert (one.frames["t0"], one.fewest["t0"]) == (26, 3)
    assert one.unalignable() == [] and "t0" in one.unalignable(one.fewest)
    assert lengths.frames([101]) == [26]  # the model's own rate stays
    assert planning.set_lengths(args, "valid", lengths).fewest is None


def test_costs_are_those_of_the_lowest_of_train_strides(experiment):
    def macs(layer, stride=None):
        experiment.configure(f"input_layer: adastride, input_layer_conf: {layer}")
        args = experiment.args()
        model = ASRTask.build_model(args)
        words = training_cost.use_lowest_stride(model)
        if stride is not None:
            model.encoder.embed.set_stride(stride)
        lengths = planning.ModelLengths(model)
        one = planning.set_lengths(args, "train", lengths)
        texts = planning.Texts(args, args.train_data_path_and_name_and_type)
        batch = training_cost.make_batch(one, texts, ["t3"])
        return training_cost.model_cost(args, model, batch, one.rate).macs, words

    drawn, words = macs("{stride: 6, train_strides: [3, 12]}")
    assert words == ", at 3x, the lowest of train_strides, which costs the most"
    assert (drawn, "") == macs("{stride: 6}", stride=3)
    assert drawn > macs("{stride: 6}")[0]


def test_speed_perturbation_on_the_fly_shortens(experiment):
    effects = (
        "[[0.5, speed_perturb, {factor: 0.9}], [0.5, speed_perturb, {factor: 1.1}]]"
    )
    experiment.configure(
        more=f"preprocessor_conf: {{fs: 16000, data_aug_effects: {effects}}}\n"
    )
    args = experiment.args()
    lengths = planning.ModelLengths(ASRTask.build_model(args))
    one = planning.set_lengths(args, "train", lengths)
    # 1.0 s: 101 frames before the layer, 91 after (1 + 14545 // 160) when sped up
    assert one.features["t0"] == 101
    # in one batch with 1.3 s: 131 and 119 frames
    assert one.frames["t0"] == conv2d_frames(101, 131) == (24 if NEWER else 26)
    assert one.fastest["t0"] == conv2d_frames(91, 119) == (22 if NEWER else 23)
    assert planning.set_lengths(args, "valid", lengths).fastest is None
    assert planning.fastest_perturbation(None) == 1.0
    many = [[0.5, "speed_perturb", {"factor": [0.8, 1.25]}]]
    assert planning.fastest_perturbation(many) == 1.25


# ------------------------------------------------------------------ the page
@pytest.mark.parametrize(
    "conf",
    ["input_layer: conv2d", "input_layer: adastride, input_layer_conf: {stride: 8}"],
)
def test_the_page_has_the_models_parameters_and_products(experiment, conf, capsys):
    experiment.configure(conf)
    page = experiment.plan("--plan_seconds", "0", "--batch_bins", "70000")
    assert page in capsys.readouterr().out
    model = ASRTask.build_model(experiment.args())
    layer = model.encoder.embed
    count, own = (sum(p.numel() for p in m.parameters()) for m in (model, layer))
    assert f"{count / 1e3:.3g} k parameters, " in page
    own = f"{own / 1e3:.3g} k" if own >= 1000 else str(own)
    assert f", {own} of them in the input layer" in page
    assert "| utterances | 6 | 2 |" in page
    assert "not measured (not asked for)" in page and "warning" not in page
    # 101, 108, 131, 201, 212, 91 features: ceil(n / 8) is 109 in 8.38 s; conv2d makes
    # 24, 26, 32, 49, 52, 22 of them, and 202511 one or two more beside longer ones
    rates = "24.5 | 24.4" if NEWER else "25.2 | 25.2"
    rates = rates if "conv2d" in conf else "13.0 | 12.8"
    assert f"| frames a second behind the input layer | {rates} |" in page


def test_multiply_accumulates_are_those_by_hand():
    """A linear layer of 3 -> 5 on 7 frames, and a convolution of 2 -> 4, kernel 3."""
    linear = torch.nn.Linear(3, 5)
    assert macs_by_module(linear, torch.zeros(7, 3))["Global"] == 7 * 3 * 5
    conv = torch.nn.Conv1d(2, 4, 3, padding=1)
    assert macs_by_module(conv, torch.zeros(1, 2, 7))["Global"] == 7 * 2 * 4 * 3


def test_steps_are_measured_and_the_epoch_follows_from_them(experiment):
    page = experiment.plan("--plan_seconds", "60")
    assert page.count("(measured)") == 2
    assert "- an epoch: about " in page and "on this CPU (threads: 1)" in page


def test_a_batch_beyond_the_time_is_extrapolated(experiment, monkeypatch):
    args = experiment.args()
    model = ASRTask.build_model(args)
    meter = training_cost.StepMeter(args, model, "cpu", 60)
    batch = training_cost.Batch([16000] * 8, [[2, 3]] * 8)
    meter.warm_up(batch.first(1))
    # if one utterance took 4 s, 9 s are for two of the eight
    meter.small = meter.small._replace(seconds=4.0)
    cost = meter.measure(batch, 9.0)
    assert cost.measured == 0.25 and cost.padded == 8 * 16000
    meter.small = meter.small._replace(seconds=1e-9)
    assert meter.measure(batch, 1.0).measured == 1.0
    # nor does it take more memory than is free
    free = 3 * 2**20 / training_cost.MEMORY_SHARE
    monkeypatch.setattr(training_cost, "free_bytes", lambda device: free)
    meter.small = meter.small._replace(peak=meter.base + 2**20)
    assert meter.measure(batch, 1.0).measured == 3 / 8


# ------------------------------------------------------------------ refusals
def refused(experiment, *options):
    with pytest.raises(SystemExit) as error:
        experiment.plan("--plan_seconds", "0", *options)
    message = str(error.value)
    assert message.startswith("error: ") and "\n" not in message
    return message


def test_what_cannot_work_is_refused_in_one_line(tmp_path):
    good = {"valid": utterances("v", [1.0]), "train": utterances("t", [1.0, 1.2])}
    short = {**good["train"], **utterances("s", [0.05, 0.03, 0.01])}
    one = Experiment(tmp_path, {**good, "train": short})
    line = refused(one, "--batch_bins", "2000")
    assert "are larger than a batch (batch_bins 2000): t1 (19235)" in line
    line = refused(one, "--batch_bins", "0")
    assert "batch_bins 0 gives no batches" in line
    one.configure("input_layer: adastrid")
    assert "unknown input_layer 'adastrid'" in refused(one)
    one.configure(more="batch_type: sorted\nbatch_size: 2\n")
    one.config.write_text(one.config.read_text().replace("batch_type: numel\n", ""))
    line = refused(one)
    assert "3 training utterances are too short" in line and "fill 1 of 2" in line
    assert "s2 (2 frames), s1 (4 frames), s0 (6 frames)" in line
    assert line.endswith("--min_wav_duration 0.05")
    line = refused(one, "--processes", "4")
    assert "holds 2 utterances and 4 processes share it" in line


def test_a_training_without_an_update_is_refused(experiment):
    two = ("--batch_bins", "70000")  # batches of the training set
    experiment.plan("--plan_seconds", "0", *two, "--accum_grad", "2")
    line = refused(experiment, *two, "--accum_grad", "3")
    assert "an epoch has 2 batches and accum_grad is 3" in line
    experiment.plan(
        "--plan_seconds", "0", *two, "--accum_grad", "3", "--num_iters_per_epoch", "3"
    )


def test_text_that_ctc_cannot_align_is_refused_and_a_share_may_be(tmp_path):
    train = utterances("t", [1.0] * 9)
    train["much"] = (16000, "ABC" * 10)  # 30 labels; 13 frames at 8x, 25 at 4x
    one = Experiment(tmp_path, {"train": train, "valid": utterances("v", [1.0])})
    one.configure("input_layer: adastride, input_layer_conf: {stride: 8}")
    page = one.plan("--plan_seconds", "0", "--max_unalignable", "0.1")
    assert "| CTC cannot align (frames < labels + repeats) | 1 (10 %) | 0 |" in page
    assert "much (13 of 30); all can be aligned at a stride of 3.3" in page
    line = refused(one, "--max_unalignable", "0.05")
    assert "CTC cannot align 1 of 10 training utterances (10 %; 5 % may be)" in line
    assert "take a stride of at most 3.3" in line
    one.configure("input_layer: adastride, input_layer_conf: {stride: 3.3}")
    page = one.plan("--plan_seconds", "0", "--max_unalignable", "0")
    assert "| CTC cannot align (frames < labels + repeats) | 0 | 0 |" in page


def test_a_rate_that_is_given_back_is_what_ctc_must_align(tmp_path):
    train = utterances("t", [1.0] * 9)
    train["much"] = (16000, "ABC" * 10)  # 30 labels; 26 frames at 4x, 51 at 2x
    one = Experiment(tmp_path, {"train": train, "valid": utterances("v", [1.0])})
    low = "{stride: [2, 4], after_blocks: [0, 1]%s}"
    conf = f"num_blocks: 3, input_layer: adastride, input_layer_conf: {low}"
    one.configure(conf % "")
    assert "much (13 of 30)" in refused(one, "--max_unalignable", "0")
    page = one.plan("--plan_seconds", "0", "--max_unalignable", "0.1")
    line = "- frames a second: 50.5 in block 1, 12.6 in blocks 2 to 3"
    assert f"{line}\n" in page
    one.configure(conf % ", restore: true")
    page = one.plan("--plan_seconds", "0", "--max_unalignable", "0")
    assert "| CTC cannot align (frames < labels + repeats) | 0 | 0 |" in page
    assert f"{line}; restored to 50.5 for CTC and decoder\n" in page
    assert "| frames a second behind the input layer | 51.0 |" in page
    one.configure((conf % ", restore: 2").replace("[2, 4]", "[4, 2]"))
    message = refused(one, "--max_unalignable", "0")
    assert "much (26 of 30)" in message
    assert "a stride of the input layer's own stages of at most 3.3" in message
    page = one.plan("--plan_seconds", "0", "--max_unalignable", "0.1")
    assert "25.2 in block 1, 12.6 in block 2, 25.2 in block 3; restored to" in page


def test_shapes_without_the_vocabulary_are_told(experiment):
    shapes = experiment.folder / "train_text"
    shapes.write_text(shapes.read_text().replace(",7", ""))
    page = experiment.plan("--plan_seconds", "0")
    assert "train_text has no vocabulary size behind the lengths" in page


def test_another_task_is_refused_in_two_lines(experiment, capsys):
    with pytest.raises(SystemExit):
        experiment.plan("--joint_network_conf", "joint_space_size=8")
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.endswith("[options] [options of espnet2.bin.asr_train]")
    assert "unrecognized arguments: --joint_network_conf" in error


def test_what_espnet_trains_otherwise_is_not_planned(experiment):
    page = experiment.plan("--iterator_type", "chunk")
    assert "not planned: lengths and batches of iterator_type chunk" in page


def test_lengths_that_depend_on_the_content_are_not_planned(experiment):
    experiment.configure("input_layer: hnet, input_layer_conf: {exact: false}")
    page = experiment.plan("--plan_seconds", "0")
    assert "not planned: lengths and batches of hnet with exact: false" in page


def test_help_needs_no_espnet():
    words = [sys.executable, "-m", "espnet_adastride.bin.plan_training", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--max_unalignable" in done.stdout


def test_a_step_takes_labels_of_any_integer_type():
    batch = training_cost.Batch([160, 80], [np.array([2, 3, 3]), np.array([4])])
    tensors = batch.tensors("cpu")
    assert tensors["text"].tolist() == [[2, 3, 3], [4, -1, -1]]
    assert tensors["speech"].shape == (2, 160)
    assert batch.padded() == 320
