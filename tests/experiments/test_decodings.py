"""An experiment whose models are decoded in several ways, through the real recipe."""

import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

pytest.importorskip("espnet2")

from espnet_adastride.bin import experiment  # noqa: E402
from espnet_adastride.corpora.kaldi import read_text  # noqa: E402
from espnet_adastride.evaluation.scoring import align, words  # noqa: E402
from espnet_adastride.experiments import definition  # noqa: E402
from espnet_adastride.experiments.records import read_records  # noqa: E402
from espnet_adastride.experiments.runs import in_turn  # noqa: E402
from tests.tiny_recipe import CONFIG, LM_CONFIG, write_corpus  # noqa: E402

BEAM = "{beam_size: 2, ctc_weight: 0.3, minlenratio: 0.3, maxlenratio: 0.6%s}\n"
FILES = {
    "tiny.yaml": CONFIG,
    "lm.yaml": LM_CONFIG,
    "beam.yaml": BEAM % "",
    "beam_lm.yaml": BEAM % ", lm_weight: 7.5",
    "decode_ctc_greedy.yaml": "batch_size: 1\n",
}


@pytest.fixture
def define(clone, tmp_path, monkeypatch):
    """Write a definition of one run; return its file."""
    monkeypatch.setattr(definition, "ROOT", clone)
    monkeypatch.setenv("LIBRISPEECH", str(write_corpus(tmp_path)))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    decodings = {
        "joint": {"inference_config": "beam.yaml"},
        "joint_lm": {"inference_config": "beam_lm.yaml", "use_lm": True},
        "ctc": {"inference_config": "decode_ctc_greedy.yaml"},
    }
    for decoding in decodings.values():
        decoding["inference_config"] = str(tmp_path / decoding["inference_config"])
    content = {
        "title": "Three decodings",
        "recipe": "egs/librispeech_100",
        "asr_config": str(tmp_path / "tiny.yaml"),
        "lm_config": str(tmp_path / "lm.yaml"),
        "decodings": decodings,
        **{"train_set": "train_x", "valid_set": "dev_x", "test_sets": ["test_x"]},
        "options": {"speed_perturb_factors": "", "token_type": "char"},
        "baseline": "adastride",
        "grid": [{"methods": ["adastride"], "rates": [4], "seeds": [0]}],
    }
    path = tmp_path / "three.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run(path, python):
    places = [f"--{name}={path.parent / name}" for name in ("records", "results")]
    experiment.main([str(path), *places, "--python", str(python)])


@pytest.mark.slow
@pytest.mark.e2e
def test_three_decodings_of_a_model_are_in_its_record(
    define, clone, warm_python, capsys
):
    run(define, warm_python)
    recipe = clone / "egs" / "librispeech_100"
    (exp,) = (recipe / "exp").glob("asr_three_*_adastride_4x_seed0")
    (record,) = read_records(define.parent / "records" / "three")
    assert sorted(record.sets) == ["ctc/test_x", "joint/test_x", "joint_lm/test_x"]
    reference = read_text(recipe / "dump" / "raw" / "test_x" / "text")
    shown = capsys.readouterr().out
    for key, scores in record.sets.items():
        decoding = key.partition("/")[0]
        decoded = exp / f"decode_{decoding}" / "test_x"
        hypotheses = read_text(decoded / "text", allow_empty=True)
        expected = [one.counts.errors for one in align(reference, hypotheses, words)]
        assert scores.utterances == sorted(reference)
        assert scores.errors().tolist() == expected and sum(expected) > 0
        wer = 100 * sum(expected) / scores.reference().sum()
        assert f"{key} {wer:.2f}" in shown
        # ... and they are those of this decoding
        log = (decoded / "logdir" / "asr_inference.1.log").read_text()
        with_lm = re.findall(r" \* 7\.5 = .* for lm\n", log)
        assert len(with_lm) == (4 if decoding == "joint_lm" else 0)
        assert bool(scores.frames) == (decoding == "ctc")
    assert len(list((recipe / "exp").glob("lm_lm_en_char/*.ave.pth"))) == 1
    page = (define.parent / "results" / "three.md").read_text()
    assert "## Errors on test_x, `joint_lm`" in page and "Not run yet" not in page


def test_a_language_model_that_cannot_be_trained_is_one_line(define, capfd):
    path = define.parent / "lm.yaml"
    path.write_text(LM_CONFIG.replace("unit: 16", "units: 16"))
    with pytest.raises(SystemExit) as error:
        run(define, sys.executable)
    line = str(error.value)
    assert "prepare.log" in line and "lm.yaml: lm_conf: unknown key 'units'" in line
    assert "\n" not in line


def test_a_signal_ends_calls_in_turn_and_lets_them_clean_up():
    # the sleep does not hold the pipe: a signal before its exec may be lost on it
    trap = "trap 'sleep 1; echo cleaned; exit 130' TERM"
    cleans_up = f"{trap}; echo up; sleep 60 > /dev/null & wait"
    process = subprocess.Popen(
        in_turn([["bash", "-c", cleans_up], ["echo", "next"]]),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "up\n"
    os.killpg(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert text == "cleaned\n" and process.returncode == 130


def test_calls_in_turn_end_with_the_first_failure():
    words = in_turn([["echo", "a b; c"], ["bash", "-c", "exit 7"], ["echo", "next"]])
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout == "a b; c\n" and done.returncode == 7
