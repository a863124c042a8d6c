"""egs/asr.sh --feats_type extracted: all stages, then a recording from the package."""

import os
import subprocess
import sys

import pytest
import soundfile
import yaml

pytest.importorskip("espnet2")
pytest.importorskip("transformers", reason="the extra [pretrained] is not installed")

from espnet_adastride.corpora.datadir import read_table  # noqa: E402
from espnet_adastride.corpora.features import build_upstream  # noqa: E402
from tests.corpora.upstreams import save_wave_model  # noqa: E402
from tests.tiny_recipe import CONFIG, SETS, write_corpus  # noqa: E402


def run(folder, corpus, python, *options):
    """Run the recipe; return its status and what it printed."""
    done = subprocess.run(
        [
            *("bash", "run_whisper.sh", "--python", str(python), *SETS),
            *("--asr_config", str(folder / "tiny.yaml"), "--token_type", "char"),
            *("--inference_asr_model", "valid.acc.ave.pth", "--ngpu", "0"),
            *("--nj", "2", "--inference_nj", "1", "--plan_seconds", "1"),
            *map(str, options),
        ],
        cwd=folder,
        env={**os.environ, "LIBRISPEECH": str(corpus)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.e2e
def test_all_stages_on_features(clone, tmp_path, warm_python):
    from espnet_adastride.transcribe import Transcriber

    folder = clone / "egs" / "librispeech_100"
    corpus = write_corpus(tmp_path)
    (tmp_path / "upstream").mkdir()
    save_wave_model(tmp_path / "upstream", "wavlm")
    # features have two layers of 16 values
    (folder / "tiny.yaml").write_text(CONFIG.replace("100000", "30000"))
    upstream = ["--upstream", f"transformers:{tmp_path / 'upstream'}"]
    upstream += ["--upstream_layers", "1 3", "--speed_perturb_factors", "0.9 1.0"]
    status, text, errors = run(folder, corpus, warm_python, *upstream)
    assert status == 0, text + errors

    train = folder / "dump" / "extracted" / "train_x_sp"
    keys = list(read_table(train / "feats.scp"))
    assert len(keys) == 24 and keys[-1].startswith("sp0.9-")
    exp = folder / "exp" / "asr_tiny_extracted_en_char_sp"
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["input_size"] == 32 and config["preencoder"] == "layer_sum"
    data = config["train_data_path_and_name_and_type"][0]
    assert list(data[1:]) == ["speech", "kaldi_ark"]
    assert (exp / "upstream.yaml").read_text() == (train / "upstream.yaml").read_text()
    page = (exp / "plan.md").read_text()
    assert "frames a second behind the input layer | 1" in page  # 50 / 4, rounded up
    decoded = exp / "decode_ctc_greedy_asr_model_valid.acc.ave" / "test_x"
    frames = read_table(decoded / "frames")
    scored = folder / "dump" / "extracted" / "test_x"
    for key, count in read_table(scored / "utt2num_frames").items():
        assert frames[key].split()[0] == str(-(-int(count) // 4))

    # the package takes a recording: the frames are those that the stages saw
    (archive,) = exp.glob("*.zip")
    transcriber = Transcriber(archive)
    key, path = next(iter(read_table(scored / "wav.scp").items()))
    wave, _ = soundfile.read(path, dtype="float32")
    encoded = transcriber.trained.encode(wave)
    assert str(len(encoded.frames)) == frames[key].split()[0]
    original = build_upstream(upstream[1], "1 3")(wave)
    assert abs(encoded.speech - original).max() < 1e-5
    assert encoded.times.boundaries[-1] == pytest.approx(len(wave) / 16000)

    # once more: everything is found done
    status, text, errors = run(folder, corpus, warm_python, *upstream)
    assert status == 0, text + errors
    for stage in (1, 2, 3, 4, 5, 10, 11, 12, 13, 14):
        part = text.split(f" Stage {stage}: ", 1)[1].split(f" Stage {stage}: ", 1)[0]
        assert "done and unchanged" in part and "again" not in part, part


def test_mistakes_end_in_one_line(clone, tmp_path):
    folder = clone / "egs" / "librispeech_100"
    corpus = write_corpus(tmp_path)
    (folder / "tiny.yaml").write_text(CONFIG)
    for options, words in (
        (
            ["--feats_type", "fbank"],
            "--feats_type 'fbank': choose one of raw extracted",
        ),
        (["--upstream_device", "tpu"], "choose one of cpu cuda"),
        (["--upstream", "wisper", "--stop_stage", "3"], "give whisper, whisper:FOLDER"),
        (["--upstream", "whisper:/no", "--stop_stage", "3"], "no such folder"),
    ):
        status, _, errors = run(folder, corpus, sys.executable, *options)
        assert status == 1 and words in errors and len(errors.splitlines()) == 1
