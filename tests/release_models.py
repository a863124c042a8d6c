"""Tiny models that read tones, trained under either release of ESPnet and packed.

    python -m tests.release_models 202511

writes ``tests/data/202511_{adastride,conv2d}.zip`` and what the models made of two
recordings (``.json``), under the release that it is run with. The packages are read by
tests/plugin/test_other_release.py, under whichever release runs it. Letters are tones
of their own, between silences; a space is a longer one.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import soundfile
import yaml

DATA = Path(__file__).parent / "data"
RATE = 8000
PITCH = {"A": 400, "B": 900, "C": 1700}
TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]
SAID = ["ABC CAB A", "B CC ABBA"]

CONFIG = """\
encoder: conformer
encoder_conf:
    output_size: 16
    attention_heads: 2
    linear_units: 16
    num_blocks: 1
    dropout_rate: 0.0
    positional_dropout_rate: 0.0
    rel_pos_type: latest
    macaron_style: true
    use_cnn_module: true
    cnn_module_kernel: 7
decoder: transformer
decoder_conf: {attention_heads: 2, linear_units: 16, num_blocks: 1, dropout_rate: 0.0}
model_conf: {ctc_weight: 0.7}
frontend_conf: {fs: 8k, n_fft: 256, hop_length: 80, n_mels: 20}
normalize: utterance_mvn
batch_type: sorted
batch_size: 16
num_workers: 0
num_att_plot: 0
use_matplotlib: false
use_tensorboard: false
max_epoch: 40
keep_nbest_models: 3
best_model_criterion: [[valid, loss_ctc, min]]
optim: adam
optim_conf: {lr: 0.005}
seed: 1
"""


def say(text, seed=0):
    """Return samples (n,) float32, and (start, end) in seconds of every letter.

    A seed varies how it is said.
    """
    rng = np.random.default_rng(seed)
    parts, spans = [np.zeros(RATE // 10)], []
    for letter in text:
        if letter == " ":
            parts.append(np.zeros(int(rng.uniform(0.2, 0.3) * RATE)))
            continue
        steps = np.arange(int(rng.uniform(0.1, 0.25) * RATE))
        pitch = PITCH[letter] * rng.uniform(0.97, 1.03)
        fade = np.minimum(1, np.minimum(steps + 1, len(steps) - steps) / 80)
        start = sum(map(len, parts)) / RATE
        spans.append((start, start + len(steps) / RATE))
        parts.append(0.3 * fade * np.sin(2 * np.pi * pitch * steps / RATE))
        parts.append(np.zeros(int(rng.uniform(0.05, 0.1) * RATE)))
    wave = np.concatenate([*parts, np.zeros(RATE // 10)])
    wave = (wave + 0.001 * rng.standard_normal(len(wave))).astype(np.float32)
    return wave, spans


def tones(text, seed=0):
    """Return what :func:`say` does, without the times."""
    return say(text, seed)[0]


def sentence(seed):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(PITCH), rng.integers(1, 5))) for _ in range(3)]
    return " ".join(words[: rng.integers(2, 4)])


def write_corpus(folder):
    """Write {train,valid}/{wav.scp,text,shape} below a folder."""
    for part, count in (("train", 96), ("valid", 16)):
        lines = {"wav.scp": [], "text": [], "shape": []}
        (folder / part).mkdir(parents=True)
        for index in range(count):
            seed = index + 1000 * (part == "valid")
            text, key = sentence(seed), f"{part}{index:03d}"
            wave = tones(text, seed)
            soundfile.write(folder / part / f"{key}.wav", wave, RATE)
            lines["wav.scp"].append(f"{key} {folder / part / key}.wav")
            lines["text"].append(f"{key} {text}")
            lines["shape"].append(f"{key} {len(wave)}")
        for name, content in lines.items():
            (folder / part / name).write_text("\n".join(content) + "\n")
    (folder / "tokens").write_text("\n".join(TOKENS) + "\n")


def train(folder, corpus, encoder_conf, *options):
    """Train a model in a folder by ESPnet's command; relative names in config.yaml."""
    from espnet_adastride.bin import run

    conf = yaml.safe_load(CONFIG)
    conf["encoder_conf"].update(encoder_conf)
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(conf))
    words = ["--config", str(folder / "train.yaml"), "--output_dir", str(folder)]
    words += ["--token_type", "char", "--token_list", str(corpus / "tokens")]
    for part in ("train", "valid"):
        words += [f"--{part}_shape_file", str(corpus / part / "shape")]
        for name, entry, kind in (
            ("wav.scp", "speech", "sound"),
            ("text", "text", "text"),
        ):
            words += [f"--{part}_data_path_and_name_and_type"]
            words += [f"{corpus / part / name},{entry},{kind}"]
    run.main(["-m", "espnet2.bin.asr_train", *words, *options])


def heard(model):
    """Return what a transcriber hears, and its frames' log probabilities."""
    results = []
    for seed, text in enumerate(SAID, 7):
        wave = tones(text, seed)
        result = model(wave)
        log_probs = model.trained.encode(wave).log_probs
        results.append(
            {
                "text": result.text,
                "words": [[w.text, w.start, w.end] for w in result.words],
                "best": log_probs.max(dim=1).values.tolist(),
            }
        )
    return results


LAYERS = {
    "adastride": {"input_layer": "adastride", "input_layer_conf": {"stride": 4}},
    "conv2d": {"input_layer": "conv2d"},
}


def main(release, scratch):
    from espnet_adastride.bin import pack_model
    from espnet_adastride.transcribe import Transcriber

    DATA.mkdir(exist_ok=True)
    os.chdir(scratch)  # what config.yaml names is relative to it
    corpus = Path("corpus")
    write_corpus(corpus)
    for name, layer in LAYERS.items():
        exp = Path(f"asr_{name}")
        # an initialization that 202611 has no more; it fits conv2d
        more = ["--init", "chainer"] if (release, name) == ("202511", "conv2d") else []
        train(exp, corpus, layer, *more)
        archive = DATA / f"{release}_{name}.zip"
        words = ["--asr_train_config", f"{exp}/config.yaml", "--outpath", str(archive)]
        words += ["--asr_model_file", f"{exp}/valid.loss_ctc.ave.pth"]
        pack_model.main(words)
        (DATA / "README.md").unlink()  # the card, which is in the package, too
        expected = {"release": release, "heard": heard(Transcriber(archive))}
        text = json.dumps(expected, indent=1)
        archive.with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
