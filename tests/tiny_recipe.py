"""A recipe's folder and a corpus small enough for a test, with names that hurt."""

import shutil
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "my corpora; $(touch owned) & '\""
SPEAKERS = {"train-x": "a$b;`c", "dev-x": "d'e\"(f)", "test-x": "*&|g"}
SETS = ["--train_set", "train_x", "--valid_set", "dev_x", "--test_sets", "test_x"]
CONFIG = """\
encoder: transformer
encoder_conf:
    output_size: 16
    attention_heads: 2
    linear_units: 16
    num_blocks: 1
    input_layer: adastride
    input_layer_conf: {stride: 4, channels: 4}
decoder: transformer
decoder_conf: {attention_heads: 2, linear_units: 16, num_blocks: 1}
model_conf: {ctc_weight: 0.5}
frontend_conf: {n_fft: 512, win_length: 400, hop_length: 160, n_mels: 20}
batch_type: numel
batch_bins: 100000
num_workers: 0
num_att_plot: 0
use_matplotlib: false
use_tensorboard: false
max_epoch: 3
keep_nbest_models: 2
best_model_criterion: [[valid, acc, max]]
optim: adam
optim_conf: {lr: 0.01}
"""
LM_CONFIG = """\
lm: seq_rnn
lm_conf: {rnn_type: lstm, unit: 16, nlayers: 1}
batch_type: folded
batch_size: 8
num_workers: 0
max_epoch: 2
keep_nbest_models: 1
best_model_criterion: [[valid, loss, min]]
optim: adam
optim_conf: {lr: 0.01}
"""


def copy_recipes(repo):
    """Copy egs; code and configurations are links."""
    shutil.copytree(
        ROOT / "egs",
        repo / "egs",
        ignore=shutil.ignore_patterns("data", "dump", "exp", "corpus", "downloads"),
    )
    for name in ("espnet_adastride", "conf"):
        (repo / name).symlink_to(ROOT / name)
    return repo


def write_corpus(folder):
    """Write three parts in LibriSpeech's layout, a speaker each; return their root."""
    root = folder / FOLDER / "LibriSpeech"
    noise = np.random.default_rng(0)
    for part, speaker in SPEAKERS.items():
        chapter = root / part / speaker / "1"
        chapter.mkdir(parents=True)
        lines = []
        for number in range(12 if part == "train-x" else 4):
            key = f"{speaker}-1-{number:04d}"
            wave = noise.integers(-3000, 3000, 8000 + 800 * number).astype("int16")
            soundfile.write(chapter / f"{key}.flac", wave, 16000)
            lines.append(f"{key} {'AB BA B' if number % 2 else 'BAB A'}\n")
        (chapter / f"{speaker}-1.trans.txt").write_text("".join(lines))
    return root
