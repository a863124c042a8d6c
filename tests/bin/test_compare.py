"""The grid of runs: with a recipe whose trainer takes no time."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin import compare
from espnet_adastride.bin.compare import main
from espnet_adastride.errors import UserError
from espnet_adastride.experiments.definition import hash_settings
from espnet_adastride.experiments.grid import (
    make_runs,
    method_system,
    read_variant,
)
from espnet_adastride.experiments.records import read_records, write_record
from espnet_adastride.experiments.run_progress import RunProgress
from espnet_adastride.files import locked
from espnet_adastride.recipe.jobs import Job, run_queue

ROOT = Path(__file__).resolve().parents[2]

# Recognises everything, but avg_pool takes ONE for TWO where the seed is not 2.
RUN = r"""#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
while [ $# -gt 0 ]; do printf -v "opt_${1#--}" %s "$2"; shift 2; done
if [ "${opt_stage}" = 1 ]; then
    echo "prepare ${OMP_NUM_THREADS}" >>calls
    for name in train dev test other; do
        mkdir -p "dump/raw/${name}"
        printf 'u1 ONE TWO\nu2 TWO ONE\nu3 TWO TWO\n' >"dump/raw/${name}/text"
        printf 'u1 g1\nu2 g1\nu3 g2\n' >"dump/raw/${name}/utt2spk"
        printf 'u1 8000\nu2 16000\nu3 4000\n' >"dump/raw/${name}/utt2num_samples"
        sed "s|.*|u& $PWD/8k.wav|" <<<$'1\n2\n3' >"dump/raw/${name}/wav.scp"
    done
    exit
fi
echo "${opt_asr_tag}" >>calls
echo "epoch 3/12, loss"
sleep "$(cat seconds 2>/dev/null || echo 0)"
if [ -e fails ] && grep -qx "${opt_asr_tag}" fails; then
    echo "error: the disk is full"
    exit 1
fi
exp=exp/asr_${opt_asr_tag}
out=${exp}/${opt_inference_tag}/${opt_test_sets}
text=dump/raw/${opt_test_sets}/text
mkdir -p "${out}"
echo "max_epoch: 12" >"${exp}/config.yaml"
case ${opt_asr_args} in
    *input_layer=avg_pool*"--seed 2"*) cp "${text}" "${out}/text" ;;
    *input_layer=avg_pool*) sed s/ONE/TWO/ "${text}" >"${out}/text" ;;
    *) cp "${text}" "${out}/text" ;;
esac
echo "[x] 2026-01-01 00:00:00,1 (t) INFO: 12epoch results: [train] loss=1.0," \
    "stride=7.25, time=50 seconds, [valid] loss=1.0, stride=7.25, time=10 seconds" \
    >"${exp}/train.log"
"""


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "a recipe"
    folder.mkdir()
    (folder / "run.sh").write_text(RUN)
    (folder / "train.yaml").write_text("encoder: conformer\nmax_epoch: 12\n")
    soundfile.write(folder / "8k.wav", np.zeros(8, np.float32), 8000)
    return folder


def options(recipe, *more):
    return [
        *("--recipe", str(recipe), "--asr_config", str(recipe / "train.yaml")),
        *("--methods", "strided_conv", "avg_pool", "--rates", "4", "8"),
        *("--seeds", "0", "2", "--resamples", "100", "--nj", "2", *more),
    ]


def calls(recipe):
    """The runs that were called since the last time, sorted."""
    path = recipe / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(line for line in lines if not line.startswith("prepare"))


ALL = sorted(
    f"train_{method}_{rate}x_seed{seed}"
    for method in ("strided_conv", "avg_pool")
    for rate in (4, 8)
    for seed in (0, 2)
)


def test_the_grid_runs_once_and_makes_the_table(recipe, capsys):
    main(options(recipe))
    assert "prepare 1" in (recipe / "calls").read_text()
    assert calls(recipe) == ALL
    shown = capsys.readouterr().out
    assert "[8/8]" in shown and "avg_pool 8x seed 0: WER test 33.33" in shown
    text = (recipe / "exp" / "comparison.md").read_text()
    row = next(x for x in text.splitlines() if x.startswith("| 8x | `avg_pool`"))
    assert "| 16.67 ± 23.57 |" in row and "| 33.33 0.00 | 7.25 |" in row
    assert "| 1.0 |" in row  # minutes
    # rates in their order, methods in theirs
    heads = [
        x.split("|")[1:3] for x in text.splitlines() if x.startswith(("| 4", "| 8"))
    ]
    assert [h[0].strip() for h in heads[:4]] == ["4x", "4x", "8x", "8x"]
    assert [h[1].strip() for h in heads[:2]] == ["`strided_conv`", "`avg_pool`"]

    main(options(recipe))
    assert calls(recipe) == []
    assert "8 of 8 runs are done" in capsys.readouterr().out
    # the records are enough: the same table without the trained models
    for folder in recipe.glob("exp/asr_*"):
        shutil.rmtree(folder)
    main(options(recipe, "--table_only", "true", "--name", "again"))
    again = (recipe / "exp" / "again.md").read_text()
    assert again.split("\n", 1)[1] == text.split("\n", 1)[1]
    records = read_records(recipe / "exp" / "records" / "train")
    assert len(records) == 8 and {r.task for r in records} == {"asr"}
    scores = records[0].sets["test"]
    assert scores.groups == ["g1", "g1", "g2"] and scores.seconds == [1.0, 2.0, 0.5]
    assert records[0].content["learning"]["valid"]["stride"] == [7.25]


def test_what_changed_is_done_again_and_nothing_else(recipe, capsys):
    main(options(recipe))
    calls(recipe)
    (recipe / "exp" / "records" / "train" / "avg_pool_4x_seed0.json.gz").unlink()
    main(options(recipe, "--nj", "1"))  # not the number of jobs
    assert calls(recipe) == ALL[:1]
    script = (recipe / "run.sh").read_text()  # longer recordings in the training
    add = 'sed -i "s/8000/9000/" "dump/raw/train/utt2num_samples"; '
    (recipe / "run.sh").write_text(script.replace("    exit\n", f"    {add} exit\n"))
    main(options(recipe))
    assert calls(recipe) == ALL
    (recipe / "train.yaml").write_text("encoder: conformer\nmax_epoch: 13\n")
    main(options(recipe, "--table_only", "false", "--seeds", "0"))
    assert calls(recipe) == [tag for tag in ALL if tag.endswith("seed0")]
    main(options(recipe, "--asr_args", "--max_epoch 1", "--seeds", "0"))
    assert all("train_max_epoch1_" in tag for tag in calls(recipe))


def test_another_test_set_is_added_to_the_records(recipe):
    def sets():
        found = read_records(recipe / "exp" / "records" / "train")
        assert all(set(r.sets) == {"test", "other"} for r in found)
        return [{n: s.data_sha256 for n, s in r.sets.items()} for r in found]

    few, other = options(recipe, "--rates", "4"), ["--test_set", "other"]
    main(few)
    runs = calls(recipe)
    table = (recipe / "exp" / "comparison.md").read_text()
    main([*few, *other, "--name", "second"])  # as it must be decoded
    assert calls(recipe) == runs and len(runs) == 4
    before = sets()
    for more in ([], other):
        main([*few, *more, "--name", "third"])  # a name is no reason to run
        assert calls(recipe) == []
        text = (recipe / "exp" / "third.md").read_text()
        assert text.split("\n", 1)[1] == table.split("\n", 1)[1]
    script = (recipe / "run.sh").read_text()  # longer recordings in one test set
    add = 'sed -i "s/8000/9000/" "dump/raw/other/utt2num_samples"; '
    (recipe / "run.sh").write_text(script.replace("    exit\n", f"    {add} exit\n"))
    main(few)
    assert calls(recipe) == []
    main([*few, *other])
    assert calls(recipe) == runs
    for old, new in zip(before, sets()):
        assert new["test"] == old["test"] and new["other"] != old["other"]


def test_records_with_hashes_of_the_test_set_stay_valid(recipe):
    """Earlier versions had them among the settings."""
    main(options(recipe, "--rates", "4"))
    assert len(calls(recipe)) == 4
    for record in read_records(recipe / "exp" / "records" / "train"):
        settings = dict(record.content["settings"])
        settings["data"] = {**settings["data"], "test": "abc"}
        mark = hash_settings(settings)
        content = {**record.content, "settings": settings, "fingerprint": mark}
        write_record(record.path, content)
    main(options(recipe, "--rates", "4"))
    assert calls(recipe) == []


def test_runs_are_not_done_by_two_calls_at_once(recipe):
    with locked(recipe / "exp" / "train" / ".lock", wait=False):
        with pytest.raises(
            SystemExit, match="works in .*exp/train .* another --asr_config$"
        ):
            main(options(recipe, "--name", "another"))
    assert calls(recipe) == []


def test_a_failed_run_stops_no_other_and_is_named(recipe, capsys):
    (recipe / "fails").write_text(ALL[3] + "\n")
    with pytest.raises(SystemExit) as error:
        main(options(recipe))
    message = str(error.value)
    assert message.startswith("error: 1 of 8 runs failed; the first: avg_pool 8x seed")
    assert "the disk is full" in message and "\n" not in message
    assert calls(recipe) == ALL
    assert "Not finished, 1 of 8" in (recipe / "exp" / "comparison.md").read_text()
    (recipe / "fails").unlink()
    main(options(recipe))
    assert calls(recipe) == [ALL[3]]
    assert "Not finished" not in (recipe / "exp" / "comparison.md").read_text()


def test_a_table_of_what_is_finished(recipe, capsys):
    with pytest.raises(SystemExit, match="dump/raw/test/text: no such file|no run is"):
        main(options(recipe, "--table_only", "true"))
    main(options(recipe, "--seeds", "0"))
    calls(recipe)
    main(options(recipe, "--table_only", "true", "--name", "part"))
    assert calls(recipe) == []
    text = (recipe / "exp" / "part.md").read_text()
    assert "Not finished, 4 of 8: strided_conv 4x seed 2" in text
    # version 0.2 left a stamp in place of the record
    (recipe / "exp" / "asr_train_avg_pool_8x_seed2").mkdir()
    (recipe / "exp" / "asr_train_avg_pool_8x_seed2" / ".run_done").touch()
    capsys.readouterr()
    main(options(recipe, "--table_only", "true"))
    assert "runs of version 0.2 have no records" in capsys.readouterr().out


def test_runs_of_different_code_are_told(recipe, monkeypatch):
    monkeypatch.setattr(compare, "code_state", lambda: "abc")
    compare.main(options(recipe, "--seeds", "0"))
    monkeypatch.setattr(compare, "code_state", lambda: "def")
    compare.main(options(recipe))
    text = (recipe / "exp" / "comparison.md").read_text()
    assert "different versions of the code**: abc (4 runs), def (4 runs)" in text


def test_an_interrupted_grid_goes_on(recipe):
    (recipe / "seconds").write_text("0.3")
    command = [sys.executable, "-m", "espnet_adastride.bin.compare", *options(recipe)]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    records = []
    while not records and time.monotonic() < deadline:
        time.sleep(0.02)
        records = list(recipe.glob("exp/records/train/*.gz"))
    (recipe / "seconds").write_text("60")
    time.sleep(0.8)  # two runs that would not end by themselves
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "to resume" in errors and len(errors.splitlines()) == 1
    done = {
        f"train_{p.name.removesuffix('.json.gz')}"
        for p in recipe.glob("exp/records/train/*.gz")
    }
    assert done and len(done) < 8
    left = subprocess.run(["pgrep", "-f", str(recipe)], capture_output=True, text=True)
    assert left.stdout == ""
    calls(recipe)
    (recipe / "seconds").unlink()
    main(options(recipe))
    assert calls(recipe) == sorted(set(ALL) - done)


@pytest.mark.parametrize(
    "more, words",
    [
        (["--methods", "avgpool"], "--methods avgpool: choose among"),
        (["--methods", "avg_pool"], "--baseline strided_conv is not compared"),
        (["--rates", "4 4.0"], "rates: 4.0 is given twice"),
        (["--rates", "4x"], "--rates 4x: give numbers"),
        (["--seeds", "0 1.5"], "--seeds 1.5: give whole numbers"),
        (["--variant", "wide"], "--variant: 'wide': give NAME=METHOD"),
        (["--variant", "x=adastrid"], "'x=adastrid': unknown method 'adastrid'"),
        (["--recipe", "no"], "--recipe no: no run.sh in it"),
        (["--asr_config", "no.yaml"], "--asr_config no.yaml: no such file"),
    ],
)
def test_a_wrong_option_ends_in_one_line(recipe, more, words):
    with pytest.raises(SystemExit) as error:
        main(options(recipe, *more))
    assert str(error.value).startswith("error: ") and words in str(error.value)
    assert calls(recipe) == []


def test_runs_and_variants():
    variant = read_variant(
        "wide=adastride score_bound=2 vp_weight=20 --optim_conf lr=1"
    )
    runs = make_runs([variant, method_system("stack")], [12.0, 5.5], [7], "c", "--x 1")
    assert [r.tag for r in runs] == [
        "c_x1_wide_12x_seed7",
        "c_x1_stack_12x_seed7",
        "c_x1_wide_5.5x_seed7",
        "c_x1_stack_5.5x_seed7",
    ]
    assert runs[0].asr_args == (
        "--encoder_conf input_layer=adastride "
        "--encoder_conf input_layer_conf.score_bound=2 "
        "--encoder_conf input_layer_conf.vp_weight=20 --optim_conf lr=1 "
        "--encoder_conf input_layer_conf.stride=12 --seed 7 --x 1"
    )
    for text in ("a b=stack", "x=", "x=a=b", "x=stack word"):
        with pytest.raises(UserError, match=f"^'{text}': "):
            read_variant(text)


def test_progress_tells_when_all_will_be_done(tmp_path):
    now, said = [0.0], []
    progress = RunProgress(10, 4, 2, said.append, every=60, clock=lambda: now[0])
    progress(["a"], [tmp_path / "a.log"])
    assert said == []
    progress.finished("a", "one", 100)  # and no epoch in its log
    assert said.pop() == "[5/10] one, 1 min 40 s, ETA 5 min 00 s"
    names, logs = ["b", "c"], [tmp_path / "b.log", tmp_path / "c.log"]
    logs[0].write_text("epoch 1/12, loss 3\n")  # of an earlier command
    progress(names, logs)
    with logs[0].open("a") as log:
        log.write("epoch 5/12, loss 3\nepoch 6/12, loss 2\n")
    now[0] = 61
    progress(names, logs)
    # two epochs in 61 s, so a run takes 366 s; two and a half in turn
    states = "b (epoch 6/12 done); c (starting)"
    assert said.pop() == f"[5/10] running: {states}, ETA 15 min 15 s"
    progress.finished("b", "two", 240)  # eight epochs, so a run takes 360 s
    assert said.pop() == "[6/10] two, 4 min 00 s, ETA 12 min 00 s"
    progress.dropped("c")
    assert progress.total == 9 and progress.eta() == ", ETA 12 min 00 s"


def test_no_more_than_the_limit_run_at_once(tmp_path):
    # a job lasts until the first poll
    wait = "for _ in $(seq 600); do [ -e $0/polled ] && exit; sleep 0.05; done"
    jobs = [
        Job(["sh", "-c", wait, str(tmp_path)], tmp_path / f"{i}.log") for i in range(5)
    ]
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    ended, counts = [], []

    def poll(running):
        counts.append(len(running))
        (tmp_path / "polled").touch()

    run_queue(jobs, 2, lambda i, s, problem: ended.append((i, problem)), poll, 0.05)
    assert sorted(ended) == [(i, None) for i in range(5)]
    assert counts[0] == max(counts) == 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_command_that_cannot_be_started(tmp_path):
    jobs = [Job([str(tmp_path / "none")], tmp_path / "log")]
    with pytest.raises(UserError, match="cannot start"):
        run_queue(jobs, 1, lambda *_: None)
