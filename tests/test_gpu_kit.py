"""The kit for a GPU: parts, records that survive, jobs that give way, and a dry run."""

import json
import math
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import soundfile

import gpu_kit
import gpu_parts
import gpu_report
from gpu_records import (
    ATTEMPTS,
    LOST_DEVICE,
    OTHER_MACHINE,
    Cell,
    Records,
    run_cells,
)

WORDS = "the cat sat on a mat and saw big red dogs run over green hills at dawn".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two sets in LibriSpeech's layout: noise of 2 s and words."""
    root = tmp_path_factory.mktemp("LibriSpeech")
    draw = np.random.default_rng(0)
    for name, count in (("train", 12), ("dev", 3)):
        folder = root / name / "7" / "8"
        folder.mkdir(parents=True)
        lines = []
        for number in range(count):
            wave = (3000 * draw.standard_normal(2 * 16000 + 16 * number)).astype(
                "int16"
            )
            utterance = f"7-8-{number:04d}"
            soundfile.write(folder / f"{utterance}.flac", wave, 16000)
            lines.append(f"{utterance} {' '.join(draw.choice(WORDS, 4)).upper()}\n")
        (folder / "7-8.trans.txt").write_text("".join(lines))
    return root


@pytest.fixture
def sets(corpus):
    return {"train": corpus / "train", "dev": corpus / "dev"}


def make_wheel(folder):
    """Make a wheel of one module."""
    folder.mkdir()
    path = folder / "tiny_thing-1.0-py3-none-any.whl"
    about = "tiny_thing-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_thing.py", "ANSWER = 42\n")
        wheel.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n",
        )
        wheel.writestr(
            f"{about}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
            "Tag: py3-none-any\n",
        )
        wheel.writestr(f"{about}/RECORD", "")
    return path


# ------------------------------------------------------------------------------- parts


def test_parts_are_small_and_may_come_one_at_a_time(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parts, "MB", 1000)
    wheel = make_wheel(tmp_path / "wheels")
    sizes = gpu_parts.pack(tmp_path / "parts", sets, [wheel], part_mb=80)
    assert len(sizes) >= 2 and max(sizes.values()) <= 80_000
    folder, work = tmp_path / "there", tmp_path / "work"
    folder.mkdir()
    names = list(sizes)
    (folder / "parts.json").write_bytes((tmp_path / "parts/parts.json").read_bytes())
    for number, name in enumerate(names):
        (folder / name).write_bytes((tmp_path / "parts" / name).read_bytes())
        assert gpu_parts.unpack(folder, work) == names[number + 1 :]
        assert (work / "data/complete").exists() == (name == names[-1])
        (folder / name).unlink()  # parts do not stay
        if number == 0:
            (folder / "parts.json").unlink()
            with pytest.raises(gpu_parts.PartsError, match="has to be with the first"):
                gpu_parts.unpack(folder, tmp_path / "elsewhere")
    wave, rate = soundfile.read(work / "data/train/7-8-0003.opus")
    assert (rate, len(wave)) == (16000, 2 * 16000 + 48)
    lines = (work / "data/train/text").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [f"7-8-{n:04d}" for n in range(12)]


def test_damaged_and_foreign_parts_are_refused(sets, tmp_path):
    parts, work = tmp_path / "parts", tmp_path / "work"
    gpu_parts.pack(parts, sets)
    content = (parts / "part-01.tar").read_bytes()
    (parts / "part-01.tar").write_bytes(content[:-600] + bytes(600))
    damaged = content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]
    (parts / "part-01.tar").write_bytes(damaged)
    with pytest.raises(gpu_parts.PartsError, match="part-01.tar is damaged: copy it"):
        gpu_parts.unpack(parts, work)
    (parts / "part-01.tar").write_bytes(content)
    assert gpu_parts.unpack(parts, work) == []
    gpu_parts.pack(parts, {"dev": sets["dev"]})
    with pytest.raises(gpu_parts.PartsError, match="of another packing"):
        gpu_parts.unpack(parts, work)


def test_hours_are_spread_over_the_set(sets, tmp_path):
    gpu_parts.pack(tmp_path, {"train": sets["train"]}, hours=10.5 / 3600)
    gpu_parts.unpack(tmp_path, tmp_path / "work")
    text = (tmp_path / "work/data/train/text").read_text()
    numbers = [int(line.split()[0][-4:]) for line in text.splitlines()]
    assert len(numbers) == 5 and max(numbers) >= 8


@pytest.mark.parametrize("pip", [True, False])
def test_wheels_are_installed_without_a_network(pip, tmp_path, monkeypatch):
    if pip and subprocess.run([sys.executable, "-m", "pip", "--version"]).returncode:
        pytest.skip("this environment has no pip")
    if not pip:
        real = subprocess.run

        def run(command, **kwargs):
            assert command[1:] == ["-m", "pip", "--version"]
            return real([sys.executable, "-c", "raise SystemExit(1)"], **kwargs)

        monkeypatch.setattr(gpu_parts.subprocess, "run", run)
    gpu_parts.pack(tmp_path / "parts", {}, [make_wheel(tmp_path / "wheels")])
    gpu_parts.unpack(tmp_path / "parts", tmp_path / "work")
    assert gpu_parts.install(tmp_path / "work") == tmp_path / "work/site"
    env = gpu_parts.environment(tmp_path / "work", tmp_path, "1")
    monkeypatch.undo()
    code = "import os, tiny_thing as t; print(t.ANSWER, os.environ['ADASTRIDE_TRITON'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.stdout == "42 1\n", done.stderr


def test_mistakes_are_one_line(tmp_path, corpus, capsys):
    (tmp_path / "empty").mkdir()
    cases = {
        f"pack --no_wheels --output {tmp_path}": "nothing to pack: give --train and",
        f"pack --no_wheels --output {tmp_path} --train {corpus}": "both --train and",
        f"pack --no_wheels --output {tmp_path} --train {tmp_path} --dev {tmp_path}": (
            "no recordings with a line in a"
        ),
        f"report {tmp_path}/none.json": "there is no such file",
        f"run --output {tmp_path} --work {tmp_path}/w --parts {tmp_path}/empty": (
            "parts.json is missing"
        ),
        f"run --output {tmp_path}/file/out --work {tmp_path}/w2": f"{tmp_path}/file",
    }
    (tmp_path / "file").touch()
    for command, message in cases.items():
        with pytest.raises(SystemExit) as error:
            gpu_kit.main(command.split())
        assert str(error.value).startswith("error: ") and message in str(error.value)
        assert "\n" not in str(error.value)
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(SystemExit, match="not a file of this kit"):
        gpu_kit.main(["report", str(other)])


# ----------------------------------------------------------------------------- records


def test_records_survive_and_continue(tmp_path):
    path, calls = tmp_path / "a.json", []

    def cell(name, outcome):
        def measure():
            calls.append(name)
            # whatever happens now, the file says that this cell was begun
            assert json.loads(path.read_text())["cells"][name]["attempts"]
            return outcome()

        return Cell(name, measure, 1)

    def fails():
        raise MemoryError("no room\nfor more")

    def dies():
        raise KeyboardInterrupt

    good, bad = cell("good", lambda: {"ms": 1.5}), cell("bad", fails)
    killer, last = cell("killer", dies), cell("last", lambda: {"ms": 2.0})
    freed = []
    far = time.time() + 1000
    for _ in range(ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            run_cells(
                Records(path, tmp_path / "copy/a.json"),
                [good, bad, killer, last],
                far,
                freed.append,
            )
    # what was there was not done again, nor what failed; what ended the process was
    assert calls == ["good", "bad", "killer", "killer"] and len(freed) == 1
    assert run_cells(Records(path), [good, bad, killer, last], far)
    assert calls[4:] == ["last"]
    records = Records(path)
    assert records.value("good", "ms") == 1.5
    assert records.cells["bad"]["error"] == "MemoryError: no room"
    assert "the process ended" in records.cells["killer"]["error"]
    copied = json.loads((tmp_path / "copy/a.json").read_text())
    assert copied["cells"]["good"]["ms"] == 1.5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "copy"]
    records.forget_errors()
    assert set(Records(path).cells) == {"good", "last"}


def test_a_section_that_is_left_out_says_so(tmp_path):
    import gpu

    command = f"--dry_run --results {tmp_path}/a.json --sections train"
    gpu.main(command.split())
    assert "left out" in Records(tmp_path / "a.json").content["notes"]["train"]


def test_another_gpu_does_not_add_to_a_file(tmp_path, capfd):
    import gpu

    records = Records(tmp_path / "a.json")
    records.content["machine"] = {"gpu": "Another", "torch": "2.0"}
    records.write()
    with pytest.raises(SystemExit) as ended:
        gpu.main(f"--dry_run --results {records.path} --sections facts".split())
    assert ended.value.code == OTHER_MACHINE and not Records(records.path).cells
    assert "measured on Another with torch 2.0" in capfd.readouterr().err
    command = f"run --dry_run --output {tmp_path}/out --work {tmp_path}/work"
    runner = gpu_kit.Runner(gpu_kit.get_parser().parse_args(command.split()))
    runner._child = lambda *_: OTHER_MACHINE  # which is not started again
    with pytest.raises(SystemExit):
        runner.run()


def test_other_recordings_need_another_folder(sets, tmp_path):
    command = f"run --dry_run --output {tmp_path}/out --work {tmp_path}/work --hours 1"
    command += f" --train {sets['train']} --dev {sets['dev']}"

    def prepare(words):
        gpu_kit.Runner(gpu_kit.get_parser().parse_args(words.split())).prepare()

    prepare(command)
    prepare(command)
    with pytest.raises(ValueError, match="has other recordings"):
        prepare(command.replace("--hours 1", "--hours 2"))


def test_cells_give_way_when_time_is_short(tmp_path):
    records = Records(tmp_path / "a.json")
    long, short = Cell("long", lambda: {"ms": 1.0}, 500), Cell("short", lambda: {}, 1)
    assert not run_cells(records, [long, short], time.time() + 100)
    assert set(records.cells) == {"short"}
    assert run_cells(records, [long, short], time.time() + 1000)


def test_a_training_that_has_diverged_is_written_down(tmp_path):
    records = Records(tmp_path / "a.json")
    diverged = {"losses": [2.0, math.nan], "stats": {"largest_jump": math.inf}}
    assert run_cells(records, [Cell("a", lambda: diverged, 0)], time.time() + 10)
    cell = Records(records.path).cells["a"]
    assert cell["losses"] == [2.0, "nan"] and cell["stats"] == {"largest_jump": "inf"}
    assert gpu_report.number("nan") == "nan" and gpu_report.number(1.5) == "1.50"


def test_a_lost_device_ends_the_process_and_is_written_down(tmp_path):
    def measure():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    records = Records(tmp_path / "a.json")
    with pytest.raises(SystemExit) as ended:
        run_cells(records, [Cell("a", measure, 0)], time.time() + 10)
    assert ended.value.code == LOST_DEVICE
    assert "illegal memory access" in Records(records.path).cells["a"]["error"]
    assert Records(records.path).finished("a")


# -------------------------------------------------------------------------------- jobs


def runner(tmp_path, **options):
    command = f"run --output {tmp_path}/out --work {tmp_path}/work".split()
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return gpu_kit.Runner(gpu_kit.get_parser().parse_args(command))


def test_a_process_that_hangs_is_ended_and_one_that_dies_started_again(tmp_path):
    kit = runner(tmp_path, seconds=30)
    start = time.time()
    assert (
        kit._child([sys.executable, "-c", "import time; time.sleep(600)"], "0", 1)
        is None
    )
    assert time.time() - start < 300
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys\n"
        f"path = {str(tmp_path / 'starts')!r}\n"
        "open(path, 'a').write('x')\n"
        f"sys.exit({LOST_DEVICE} if os.path.getsize(path) < 3 else 0)\n"
    )
    real = kit._child

    def child(command, triton, seconds):
        return real([sys.executable, str(script)], triton, seconds)

    kit._child = child
    assert kit._cells(gpu_kit.JOBS[0], 20)
    assert (tmp_path / "starts").read_text() == "xxx"


def test_jobs_keep_to_their_shares_and_the_rest_is_used(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(gpu_kit.time, "time", lambda: now[0])
    jobs = [
        gpu_kit.Job("a", ("layer",), "0", 100),
        gpu_kit.Job("b", ("step",), "0", 50),
        gpu_kit.Job("c", ("more",), "0", 400),
    ]
    kit = runner(tmp_path, seconds=300)
    kit.jobs, given = jobs, []

    def cells(job, seconds):
        given.append((job.name, round(seconds)))
        # a is never done; b at once; c takes 80 s
        now[0] += {"a": seconds, "b": 10, "c": 80}[job.name]
        return job.name != "a"

    kit._cells = cells
    kit.run()
    assert given == [("a", 100), ("b", 50), ("c", 185), ("a", 105)]
    # the next call: nothing but what was not done
    kit = runner(tmp_path, seconds=60)
    kit.jobs, kit._cells = jobs, cells
    given.clear()
    kit.run()
    assert given == [("a", 55)]


def test_pytest_outcomes_are_read_also_if_cut_off():
    log = """
tests/a.py::test_one[cuda] PASSED                                        [ 10%]
tests/a.py::test_two[x-cuda] FAILED                                      [ 20%]
tests/a.py::test_three SKIPPED (needs 90 GiB)                            [ 30%]
tests/a.py::test_four ERROR                                              [ 40%]
tests/a.py::test_five
"""
    cut = gpu_kit.read_outcomes(log)
    assert [cut[k] for k in ("passed", "failed", "skipped", "errors")] == [1, 1, 1, 1]
    assert cut["failures"] == {
        "tests/a.py::test_two[x-cuda]": "",
        "tests/a.py::test_four": "",
    }
    whole = gpu_kit.read_outcomes(
        log + "FAILED tests/a.py::test_two[x-cuda] - AssertionError: 2: error 1 > 0.1\n"
    )
    reason = whole["failures"]["tests/a.py::test_two[x-cuda]"]
    assert reason == "AssertionError: 2: error 1 > 0.1"


# ------------------------------------------------------------------------------ report


def test_the_report_has_the_ratios(tmp_path):
    records = Records(tmp_path / "a.json")
    records.content["machine"] = {"gpu": "Some Card", "torch": "2.11"}

    def layer(mode, name, ms, **more):
        cell = {"forward_ms": ms / 3, "both_ms": ms, "both_wall_ms": ms, **more}
        records.put(f"layer/{mode}/float32/T1000/{name}", cell)

    layer("eager", "copy", 2.0)
    layer("eager", "avg_pool", 4.0, peak_over_x=2.5, saved_over_x=0.0, both_kernels=9)
    layer("eager", "adastride/triton1", 5.0)
    records.put("layer/graph/float32/T1000/adastride/triton0", {"error": "E: no graph"})
    layer("graph", "avg_pool", 3.0)
    step = dict(step_wall_ms=1.0, layer_ms=1.0, layer_share=0.25, peak_gib=None)
    step.update(kernels=7, batches=4, utterances=30, seconds_of_speech=1800.0, amp="x")
    for name, ms in (("conv2d", 200.0), ("adastride/triton0", 150.0)):
        records.put(f"step/8x/{name}", {"step_ms": ms, **step})
    for method, errors in (("strided_conv", [3, 4]), ("adastride", [1, 2])):
        cell = dict(wer=10.0, cer=5.0, substitutions=1, deletions=2, insertions=3)
        cell.update(words=40, updates=5, hours_of_speech=1.0, seconds=2.0)
        cell.update(peak_gib=None, stats={}, errors=dict(zip("ab", errors)))
        records.put(f"train/8x/{method}", cell)
    plan = {"hours": 8.02, "dev_utterances": 2, "updates": 5}
    records.put("train/updates", {**plan, "seconds_an_update": {"adastride 8x": 0.25}})
    records.put(
        "tests/triton0", {"passed": 3, "failed": 1, "failures": {"t::x": "why"}}
    )
    gpu_kit.main(["report", str(records.path)])
    lines = (tmp_path / "a.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    ours = next(row for row in cells if row[1:2] == ["adastride, Triton"])
    assert ours[:7] == [
        "1000",
        "adastride, Triton",
        "1.667",
        "5.000",
        "5.000",
        "1.25",
        "2.50",
    ]
    assert ["1000", "adastride", "E: no graph"] in [row[:3] for row in cells]
    # a graph against the same graph of avg_pool, and the one copy
    assert ["1.00", "1.50"] in [row[5:7] for row in cells if row[3:4] == ["3.000"]]
    assert ["8x", "adastride", "150.0", "1.0", "0.750"] in [row[:5] for row in cells]
    text = "\n".join(lines)
    assert "the same 5 updates for all; seconds of one: adastride 8x 0.25." in text
    assert "25.0 %" in text and "adastride - strided_conv = -10.00 points" in text
    assert "[-10.00, -10.00]" in text and "- `t::x` (without): why" in text


# ----------------------------------------------------------------------------- dry run


@pytest.mark.slow
def test_a_dry_run_does_everything_small_and_then_nothing(sets, tmp_path, capfd):
    """As on a GPU, but on the CPU: two parts, one after the other, then once more."""
    gpu_parts.pack(tmp_path / "parts", sets)
    command = f"run --dry_run --output {tmp_path}/out --work {tmp_path}/work "
    gpu_kit.main((command + f"--parts {tmp_path}/parts").split())
    path = tmp_path / "out/gpu_kit_dry_run.json"
    content = json.loads(path.read_text())
    cells = content["cells"]
    errors = {name: cell["error"] for name, cell in cells.items() if "error" in cell}
    assert not errors
    kinds = {name.split("/")[0] for name in cells}
    assert kinds == {"facts", "layer", "step", "train", "tests"}
    for mode in ("eager", "graph", "compile"):
        assert any(name.startswith(f"layer/{mode}/") for name in cells)
    for name, cell in cells.items():
        if name.startswith("layer/"):
            assert cell["forward_ms"] > 0 and cell["both_ms"] > 0
            assert cell["x_bytes"] == cell["batch_size"] * 16 * int(
                name.split("/T")[1].split("/")[0]
            ) * (4 if "float32" in name else 2)
    for name in ("step/4x/conv2d", "step/8x/adastride/triton0"):
        assert 0 < cells[name]["layer_share"] < 1
    # more kernels... here operators: a step calls what its layers call, and more
    assert cells["step/4x/conv2d"]["kernels"] > 100
    plan = cells["train/updates"]
    assert plan["dev_utterances"] == 3 and len(plan["seconds_an_update"]) == 4
    for setting in (
        "4x/strided_conv",
        "4x/adastride",
        "8x/strided_conv",
        "8x/adastride",
    ):
        cell = cells[f"train/{setting}"]
        assert cell["updates"] <= cell["planned_updates"] == plan["updates"]
        assert cell["words"] == 12
        assert set(cell["errors"]) == {f"7-8-{n:04d}" for n in range(3)}
        total = cell["substitutions"] + cell["deletions"] + cell["insertions"]
        assert total == sum(cell["errors"].values())
        assert cell["wer"] == pytest.approx(100 * total / 12, abs=0.01)
        assert all(np.isfinite(cell["losses"]))
    assert (
        cells["tests/triton0"]["passed"] == 4 and not cells["tests/triton0"]["failed"]
    )
    data = tmp_path / "work" / "data"
    assert (data / "dry_run" / "bpe.model").exists()  # not for a training that counts
    assert not list(data.glob("bpe.*")) and not list(data.glob("*.npz"))
    report = (tmp_path / "out/gpu_kit_dry_run.md").read_text()
    assert "A dry run on a CPU" in report and "| adastride_f |" in report
    capfd.readouterr()
    gpu_kit.main(command.split())
    assert json.loads(path.read_text())["cells"] == cells
    assert "--- " not in capfd.readouterr().out  # no process was started


def test_the_parts_that_a_session_may_carry():
    """Every listed wheel has one version, and nothing that PyTorch's machine has."""
    names = [wheel.split("==")[0] for wheel in gpu_parts.WHEELS]
    assert len(set(names)) == len(names) and all("==" in w for w in gpu_parts.WHEELS)
    assert not {"torch", "torchaudio", "numpy", "triton", "scipy"} & set(names)
    assert os.path.basename(gpu_report.__file__) == "gpu_report.py"
