"""A synthetic corpus: three "words" are three tones in noise."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from espnet_adastride.corpora.clips import find_clips
from espnet_adastride.experiments.classification.features import load_features
from espnet_adastride.experiments.classification.options import read_options
from tests.tones import TONES, noisy_tone

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "conf" / "train_speech_commands.yaml"
RATE = 16000


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of tones: 40 speakers, three words each, 0.3 to 0.5 s."""
    folder = tmp_path_factory.mktemp("corpora") / "speech_commands"
    random = np.random.default_rng(0)
    for word in [*TONES, "_background_noise_"]:
        (folder / word).mkdir(parents=True)
    for speaker in range(40):
        for word, hertz in TONES.items():
            wave = noisy_tone(random, hertz, RATE)
            path = folder / word / f"{speaker:08x}_nohash_0.wav"
            soundfile.write(path, wave, RATE, subtype="PCM_16")
    soundfile.write(folder / "_background_noise_" / "hiss.wav", wave, RATE)
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """A configuration that learns the tones in a second."""
    words = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    words["features"]["n_mels"] = 20
    words["network"].update(width=8, strides=[2, 2, 2])
    words["training"].update(epochs=8, batch_size=16, lr=0.01, decay=0.8)
    words["training"].update(mask_mels=2, mask_frames=2)
    path = tmp_path_factory.mktemp("conf") / "tiny.yaml"
    path.write_text(yaml.safe_dump(words), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data(corpus, config, tmp_path_factory):
    options = read_options(config)
    clips = find_clips(corpus, "speech_commands")
    return load_features(clips, options.features, tmp_path_factory.mktemp("feats"))
