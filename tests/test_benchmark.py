"""The benchmark runs, and what it counts is right where it can be known."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "downsampling.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_downsampling", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_saved_bytes_and_ratios(benchmark, tmp_path, capsys):
    benchmark.main(
        "--steps 300 600 --size 32 --batch_size 2 --rounds 1 --threads 1 "
        "--others_up_to 300 "
        f"--output_dir {tmp_path}".split()
    )
    text = (tmp_path / "downsampling.md").read_text()
    assert text.splitlines()[0] in capsys.readouterr().out
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = {(row[0], row[1]): row for row in cells if len(row) == 8}
    assert {row[1] for row in rows} >= set(benchmark.METHODS)
    assert ("300", "ada_pool") in rows and ("600", "ada_pool") not in rows
    # a convolution keeps a copy of its input, a pooling by sums keeps nothing of it
    assert float(rows["600", "strided_conv"][6]) >= 1.0
    assert float(rows["600", "avg_pool"][6]) < 0.05
    # the rows' indices cost the same for any D: at 32 features more than at 256
    assert 0.0 < float(rows["600", "adastride"][6]) < 1.0
    assert float(rows["600", "dense"][6]) > float(rows["600", "adastride"][6])
    assert float(rows["300", "avg_pool"][4]) == 1.0
    assert float(rows["600", "strided_conv"][7]) > 1.0  # at least that copy
    growth = [row for row in cells if row[:1] == ["adastride at 2 T / at T <= 2.3"]]
    assert [row[1] for row in growth] == ["300"]
    assert (tmp_path / "downsampling.png").stat().st_size > 5000


def test_targets_are_judged(benchmark):
    def figures(both):
        return benchmark.Figures(both / 2, both, 0.1, 2.0)

    table = {
        (4000, "copy"): figures(1.0),
        (4000, "adastride"): figures(5.0),
        (4000, "adastride_f"): figures(3.0),
        (4000, "avg_pool"): figures(4.0),
        (4000, "strided_conv"): figures(30.0),
        (4000, "dense"): figures(600.0),
    }
    said = {line.split("|")[1].strip(): line for line in benchmark.target_lines(table)}
    assert "met" in said["adastride / dense <= 1/60"]
    assert "1.25 | missed" in said["adastride / avg_pool <= 1.2"]
    assert "met" in said["adastride / strided_conv <= 0.25"]
    assert "5 | missed" in said["adastride / copy <= 4"]
