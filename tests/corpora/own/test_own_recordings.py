"""From a folder of one's own to a table of word error rates, as README says it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.tiny_recipe import CONFIG
from tests.tones import TONES, noisy_tone

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## Your own recordings\n")[1].split("\n## ")[0]
TINY = CONFIG.replace("decoder: transformer\n", "").replace(
    "decoder_conf: {attention_heads: 2, linear_units: 16, num_blocks: 1}\n", ""
)
TINY = TINY.replace("ctc_weight: 0.5", "ctc_weight: 1.0").replace(
    "[valid, acc, max]", "[valid, cer_ctc, min]"
)


@pytest.fixture
def project(tmp_path):
    """Recordings of tones, named after them, in one folder with a table."""
    folder = tmp_path / "my_project"
    random = np.random.default_rng(0)
    lines = ["path,text,speaker"]
    for speaker in ("anna", "ben", "cleo", "dan"):
        for number in range(6):
            words = [sorted(TONES)[(number + k) % 3] for k in range(2)]
            wave = [noisy_tone(random, TONES[word], 16000) for word in words]
            path = folder / "wav" / speaker / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.concatenate(wave), 16000)
            lines.append(f"wav/{speaker}/{number}.wav,{' '.join(words)},{speaker}")
    (folder / "recordings.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(script, folder, python=sys.executable):
    """Run lines of a shell; return status and output."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "adastride").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m espnet_adastride.cli "$@"\n'
    )
    (tools / "adastride").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": str(python),
    }
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.e2e
@pytest.mark.slow
def test_the_readme_word_by_word(project, clone, warm_python):
    (script,) = re.findall(r"```\n(.*?)```", SECTION, re.DOTALL)
    script = script.replace("/path/to/espnet_adastride", shlex.quote(str(clone)))
    # a configuration in the folder goes before the one of this name in conf/
    (project / "train_asr_own.yaml").write_text(TINY)
    status, said = run(script, project.parent, warm_python)
    assert status == 0, said
    assert "split by speaker, seed 0: no speaker is in two sets" in said
    assert "no local/data.sh: data/{train,valid,test} are used unchanged" in said
    (table,) = re.findall(r"`(exp/\S+RESULTS\.md)`", SECTION)
    table = (project / table).read_text()
    utterances = (project / "data" / "test" / "text").read_text().splitlines()
    assert len(utterances) == 6
    (row,) = re.findall(r"^\|.*/test\|6\|12\|.*$", table, re.MULTILINE)  # WER
    assert row in said
    # again: nothing is done twice
    status, said = run(script, project.parent, warm_python)
    assert status == 0 and said.count("prepared before, unchanged") == 3
    assert "training, log" not in said and "decoding test" not in said


def test_what_the_driver_says_without_data(project, clone):
    driver = shlex.quote(str(clone / "egs" / "asr.sh"))
    words = "--train_set train --valid_set valid --test_sets 'test more' --stop_stage 1"
    status, said = run(f"{driver} {words}", project)
    assert status == 1
    (line,) = said.splitlines()[-1:]
    assert f"error: {project}/data/train is missing (there: none)" in line
    assert "adastride prepare" in line and "write local/data.sh" in line
    status, said = run(f"adastride prepare recordings.csv; {driver} {words}", project)
    assert f"{project}/data/more is missing (there: test train valid)" in said
    words = words.replace(" more", "")
    status, said = run(f"{driver} {words} --speed_perturb_factors '0.9 1.0'", project)
    assert status == 0 and "are used unchanged" in said


def test_a_data_folder_that_needs_preparing_says_so(project, clone):
    driver = shlex.quote(str(clone / "egs" / "asr.sh"))
    words = "--train_set train --valid_set valid --test_sets test --stop_stage 3"
    status, said = run(f"adastride prepare recordings.csv; {driver} {words}", project)
    assert status == 0, said
    folder = project / "data" / "valid"
    (folder / "segments").write_text("x y 0 1\n")
    words += " --rerun true"
    status, said = run(f"{driver} {words}", project)
    assert status == 1
    assert "adastride prepare valid=data/valid --output NEW" in said
    (folder / "segments").unlink()
    (folder / "utt2spk").unlink()
    status, said = run(f"{driver} {words}", project)
    assert status == 1
    assert "data/valid/utt2spk is missing" in said and "adastride prepare" in said


def test_every_option_in_the_text_exists():
    """Whatever the page names is an option of a command, or of ESPnet's training."""
    from espnet_adastride.bin.prepare import get_parser

    page = (ROOT / "docs" / "own_recordings.md").read_text(encoding="utf-8")
    driver = (ROOT / "egs" / "asr.sh").read_text(encoding="utf-8")
    known = set(re.findall(r"^option (\w+)", driver, re.MULTILINE))
    known |= {"max_epoch", "frontend_conf", "encoder_conf"}  # ESPnet's, in --asr_args
    known |= {word.strip("-") for word in get_parser()._option_string_actions}
    named = set(re.findall(r"--(\w+)", page + SECTION))
    assert named >= {"skip_bad", "speaker_from", "split", "seed", "overwrite"}
    assert named <= known, named - known
