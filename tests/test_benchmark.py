"""The benchmarks run, and what they count is right where it can be known."""

import math

import numpy as np
import pytest
import torch
from matplotlib.text import Text

import blocks
import downsampling
import input_layer
import long_input
import measuring
import pauses
import side_information
from espnet_adastride.report import style


def rows_of(path):
    """Return the cells of every row of the tables in a Markdown file."""
    lines = path.read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def as_number(cell):
    return float(cell) if cell else None


def test_saved_bytes_and_ratios(tmp_path, capsys):
    downsampling.main(
        "--steps 300 600 --size 32 --batch_size 2 --rounds 1 --threads 1 "
        "--others_up_to 300 "
        f"--output_dir {tmp_path}".split()
    )
    target = tmp_path / "downsampling.md"
    assert target.read_text().splitlines()[0] in capsys.readouterr().out
    cells = rows_of(target)
    rows = {(row[0], row[1]): row for row in cells if len(row) == 8}
    assert {row[1] for row in rows} >= set(downsampling.METHODS)
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


def test_no_label_of_a_line_covers_another(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(style, "save_figure", lambda figure, path: drawn.append(figure))
    grey = [m for m in downsampling.METHODS if m not in downsampling.COMPARED][:-1]
    table = {}
    for steps in (500, 4000):
        table |= {
            (steps, name): downsampling.Figures(0.1, 0.2 + 1e-3 * n, 0.1, 2.0)
            for n, name in enumerate(grey)
        }
        table[steps, "copy"] = downsampling.Figures(1e-3, 2e-3, 0.1, 1.0)
        table[steps, "strided_conv"] = downsampling.Figures(1.0, 9.0, 0.1, 9.0)
    downsampling.draw(table, tmp_path / "downsampling.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    for axis in figure.axes:
        labels = {text.get_text(): text for text in axis.texts}
        assert set(labels) == set(grey)
        # beside the ends, in the order of the lines
        boxes = [Text.get_window_extent(labels[name]) for name in grey]
        assert all(a.y1 <= b.y0 for a, b in zip(boxes, boxes[1:]))
        end = axis.transData.transform((4000, 1.0))[0]
        assert all(box.x0 > end for box in boxes)


def test_targets_are_judged():
    def figures(both):
        return downsampling.Figures(both / 2, both, 0.1, 2.0)

    table = {
        (4000, "copy"): figures(1.0),
        (4000, "adastride"): figures(5.0),
        (4000, "adastride_f"): figures(3.0),
        (4000, "avg_pool"): figures(4.0),
        (4000, "strided_conv"): figures(30.0),
        (4000, "dense"): figures(600.0),
    }
    lines = downsampling.target_lines(table)
    said = {line.split("|")[1].strip(): line for line in lines}
    assert "met" in said["adastride / dense <= 1/60"]
    assert "1.25 | missed" in said["adastride / avg_pool <= 1.2"]
    assert "met" in said["adastride / strided_conv <= 0.25"]
    assert "5 | missed" in said["adastride / copy <= 4"]


def test_methods_take_turns_after_a_warm_up():
    calls = []

    def measure(name):
        calls.append(name)
        return (len(calls),)

    measures = {name: lambda name=name: measure(name) for name in ("a", "slow", "b")}
    medians = measuring.in_turn(measures, 2, once=["slow"])
    assert calls == ["a", "b", "a", "slow", "b", "a", "b"]
    calls.clear()
    measuring.in_turn(measures, 1, warm_up={"a": lambda: calls.append("warm-up")})
    assert calls == ["warm-up", "a", "slow", "b"]
    assert medians == {"a": (4.5,), "slow": (4,), "b": (6.0,)}


def test_peaks_are_those_of_the_child():
    def child():
        return measuring.added_peak(lambda: torch.zeros(2**24))  # 64 MiB, and freed

    assert 2**26 <= measuring.in_child(child) < 1.5 * 2**26
    assert measuring.in_child(lambda: 1 / 0) is None
    assert measuring.process_peak() > 2**24


@pytest.mark.slow
def test_a_training_step_with_every_input_layer(tmp_path, capsys):
    input_layer.main(
        "--batch_size 2 --accumulate 2 --seconds 2 --blocks 1 --rounds 1 --threads 1 "
        f"--whole adastride/conv1d --output_dir {tmp_path}".split()
    )
    target = tmp_path / "input_layer.md"
    assert target.read_text() in capsys.readouterr().out
    cells = rows_of(target)
    methods = ("conv2d", *input_layer.METHODS)
    rows = {tuple(row[:2]): row[2:] for row in cells if len(row) == 8}
    rows = {key: list(map(as_number, rows[key])) for key in rows if key[0] in methods}
    assert len(rows) == len(input_layer.VARIANTS)
    assert rows["conv2d", ""][1] == 1.0
    macs = {key: row[5] for key, row in rows.items()}
    # 201 frames become 99 of 39 bins, 49 of 19, of 256 channels
    first, second, linear = 99 * 39 * 9 * 256, 49 * 19 * 9 * 256**2, 49 * 19 * 256**2
    assert macs["conv2d", ""] == pytest.approx(
        (first + second + linear) / 1e9, abs=0.01
    )
    for trunk in input_layer.TRUNKS:
        assert rows["avg_pool", trunk][2] == 1.0
        # the convolutions before pooling see every frame, those of strided_conv half
        assert macs["strided_conv", trunk] < macs["avg_pool", trunk]
        assert macs["avg_pool", trunk] <= macs["adastride", trunk]
        assert macs["avg_pool", trunk] <= macs["adastride_f", trunk]
    whole = [row[0] for row in cells if len(row) == 5]
    assert whole[-2:] == ["conv2d", "adastride/conv1d"]
    assert (tmp_path / "input_layer.png").stat().st_size > 5000


def test_input_layer_targets_are_judged():
    layers = {v: input_layer.Figures(10.0, 1.0, 1.0) for v in input_layer.VARIANTS}
    wholes = {input_layer.ESPNET: (30.0, 1.0)}

    def say(trunk, seconds):
        layers[input_layer.Variant("adastride", trunk)] = input_layer.Figures(
            seconds, 1.0, 1.0
        )

    say("conv2d", 12.0), say("conv1d", 11.0), say("dwconv2d", 14.0)
    lines = input_layer.target_lines(layers, wholes)[2:]
    cells = [[cell.strip() for cell in line.split("|")[2:5]] for line in lines]
    assert cells == [
        ["conv2d", "1.07", "missed"],
        ["conv1d", "1.03", "met"],
        ["dwconv2d", "1.13", "missed"],
        ["conv1d", "1.03", "met"],
    ]


def test_a_long_input_in_chunks(tmp_path, monkeypatch):
    from espnet_adastride.plugin import long_input as limits

    monkeypatch.setattr(limits, "LONG_BYTES", 2**20)
    monkeypatch.setattr(limits, "CHUNK_BYTES", 2**20)
    long_input.main(
        "--minutes 0.2 --size 16 --threads 1 --methods avg_pool adastride "
        f"--output_dir {tmp_path}".split()
    )
    cells = rows_of(tmp_path / "long_input.md")
    frames = [row[4] for row in cells if len(row) == 5]
    assert frames[2:] == ["150"] * 6
    assert [row[3] for row in cells if len(row) == 4][2:] == ["met"] * 6


def test_what_is_known_of_a_slot_and_what_it_costs():
    # two tokens; three slots of the second stage, five steps of the first
    first, second = side_information.read_stages([7, 9], [[2, 0, 3], [1, 2]])
    assert [tuple(told) for told in second] == [(1, 0, 0, 7), (2, 1, 0, 9)]
    assert [tuple(told) for told in first] == [(2, 0, 0, 7), (0, 2, 0, 9), (3, 0, 2, 9)]
    told = side_information.Told
    seen = [told(1, 0, 0, 5)] * 12 + [told(2, 0, 0, 6)] * 12
    sent = [told(1, 0, 0, 5)] * 2
    alone = side_information.code_length(seen, sent, [()])
    share = (12 + 4 / 256) / (24 + 4)
    assert alone == pytest.approx(-2 * math.log2(share))
    tokens = side_information.code_length(seen, sent, [(), (3,)])
    assert tokens == pytest.approx(-2 * math.log2((12 + 4 * share) / (12 + 4)))


def test_blocks_cost_what_whole_utterances_cost(capsys):
    blocks.main(["--blocks", "0.5", "8", "--rounds", "3"])
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = {
        cells[1].strip(): float(cells[2])
        for cells in (line.split("|") for line in lines)
    }
    assert set(rows) == {"whole utterances", "0.5 s", "8 s"}
    # wide limits: other work on the machine is measured, too
    assert rows["0.5 s"] < 2 * rows["whole utterances"]


def test_the_regression_finds_the_causes_that_were_put_in():
    draw = np.random.default_rng(3)
    words = draw.integers(5, 40, 400).astype(float)
    pause, pace = draw.normal(size=(2, 400))
    pause, pace = ((x - x.mean()) / x.std() for x in (pause, pace))
    # errors of the method: 5 points fewer, 2 more for each s.d. of pauses, pace nothing
    errors = words * (0.4 - 0.05 + 0.02 * pause) + 0.3 * draw.normal(size=400)
    found = list(pauses.regression(errors, 0.4 * words, words, pause, pace))
    (first, low, high), (second, *_) = found
    assert first == pytest.approx(2, abs=0.4) and low < first < high < 2.4
    assert second == pytest.approx(0, abs=0.4)


def test_thirds_by_hand():
    words, base = np.full(6, 10.0), np.full(6, 4.0)
    errors = np.array([1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    rows = pauses.part_rows("pauses", np.arange(6) / 10, errors, base, words)
    assert [row[1] for row in rows] == ["0.00 to 0.10", "0.20 to 0.30", "0.40 to 0.50"]
    assert [row[3:5] for row in rows] == [["40.0", x] for x in ("10.0", "20.0", "40.0")]
    assert rows[0][5] == "-30.0 [-30.0, -30.0]"
