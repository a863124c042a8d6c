"""Recordings and transcripts of a Kaldi-style folder, as an ESPnet3 data set."""

from pathlib import Path

import soundfile
from espnet3.components.data.base_dataset import BaseDataset
from espnet3.components.data.dataset_builder import DatasetBuilder as Builder
from espnet3.contract import Field


def read_table(path):
    """Return {utterance: rest of the line}."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {key: "".join(rest) for key, *rest in pairs}


def texts(data_dir):
    """Return the transcripts for training the tokenizer."""
    return list(read_table(Path(data_dir) / "train" / "text").values())


class Dataset(BaseDataset):
    """``data_dir/split/{wav.scp,text}``: (samples,) at 16 kHz, and the transcript."""

    fields = (Field("speech", "audio"), Field("text", "text"))

    def __init__(self, split, data_dir):
        waves = read_table(Path(data_dir) / split / "wav.scp")
        said = read_table(Path(data_dir) / split / "text")
        self.items = [(waves[key], said[key]) for key in sorted(waves)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        path, text = self.items[int(index)]
        speech, rate = soundfile.read(path, dtype="float32")
        if rate != 16000 or speech.ndim != 1:
            raise ValueError(f"{path}: convert it to one channel at 16000 Hz")
        return {"speech": speech, "text": text}


class DatasetBuilder(Builder):
    """The data exist already."""

    def is_source_prepared(self, **kwargs):
        return True

    def prepare_source(self, **kwargs):
        """Nothing to do."""

    def is_built(self, **kwargs):
        return True

    def build(self, **kwargs):
        """Nothing to do."""
