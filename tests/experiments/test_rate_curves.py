"""WER over rate: points, intervals, table, curve; one model at many rates on disk."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin import rate_curve
from espnet_adastride.errors import UserError
from espnet_adastride.experiments.rate_curves import (
    Point,
    format_table,
    intervals,
    own_stride,
    plot_rates,
    pool,
)
from espnet_adastride.plugin.encoders import EBranchformerEncoder
from espnet_adastride.report.style import MARKERS
from tests.tiny_models import RATE, make_experiment


def point(model, stride, errors, own=False, seconds=2.0):
    return Point(model, stride, own, errors, [2.0] * len(errors), seconds, 100.0)


STOCK = {"conv2d": 4, "conv2d1": 1, "conv2d2": 2, "conv2d6": 6, "conv2d8": 8}
STOCK.update({"conv1d1": 1, "conv1d2": 2, "conv1d3": 3})


@pytest.mark.parametrize("word", STOCK)
def test_rates_of_espnets_own_layers(word):
    encoder = EBranchformerEncoder(40, 8, attention_heads=2, input_layer=word)
    args = SimpleNamespace(encoder_conf={"input_layer": word})
    stride = own_stride(SimpleNamespace(layer=None, args=args))
    layers = [m for m in encoder.embed.conv if hasattr(m, "stride")]
    assert stride == STOCK[word] == np.prod([layer.stride[0] for layer in layers])


def test_a_layer_without_a_rate_is_refused():
    args = SimpleNamespace(encoder_conf={"input_layer": "linear"})
    with pytest.raises(UserError, match="input_layer linear does not downsample"):
        own_stride(SimpleNamespace(layer=None, args=args))


def test_points_by_hand():
    one = point("any", 4.0, [1, 0, 1, 2], own=True)
    assert one.wer == 50.0 and one.rtf == 0.02
    points = [point("any", 8.0, [2, 2, 2, 2], seconds=1.0), one, point("c", 8, [0] * 4)]
    units = ["u1", "u2", "u3", "u4"]
    ends = intervals(points, units)
    assert ends[0] == (100.0, 100.0) and ends[2] == (0.0, 0.0)
    assert ends[1][0] < 50 < ends[1][1]
    rows = format_table(points, units).splitlines()[2:]
    assert rows[0].startswith("| `any` | 4x, its own | 50.0 | ")
    assert rows[0].endswith("| 0.0200 | 1.00 |")
    assert rows[1] == "| `any` | 8x | 100.0 | [100.0, 100.0] | 0.0100 | 0.50 |"
    assert rows[2].startswith("| `c` | 8x | 0.0 |")
    # one speaker alone has no interval
    assert np.isnan(intervals([one], ["s", "s", "s", "s"])).all()
    row = format_table([one], ["s", "s", "s", "s"]).splitlines()[-1]
    assert "| 50.0 | none |" in row
    plot_rates([one], ["s", "s", "s", "s"])  # the bar is left out


def test_the_curve_shows_every_point():
    units = ["u1", "u2"]
    points = [
        point("any", 8.0, [1, 0], seconds=1.0),
        point("any", 4.0, [1, 1], own=True),
        point("conv", 8.0, [2, 0], own=True),
    ]
    left, right = plot_rates(points, units).axes
    lines = [(list(a.get_xdata()), list(a.get_ydata())) for a in left.lines]
    assert ([4.0, 8.0], [50.0, 25.0]) in lines and ([8.0], [50.0]) in lines
    lines = [(list(a.get_xdata()), list(a.get_ydata())) for a in right.lines]
    assert ([20.0, 10.0], [50.0, 25.0]) in lines
    assert [t.get_text() for t in left.get_xticklabels()] == ["4x", "8x"]


def test_seeds_are_averaged_and_each_is_shown():
    units = ["u1", "u2"]
    points = [
        point("any", 8.0, [1, 0], seconds=1.0),
        point("one", 8.0, [2, 2]),
        point("any", 8.0, [0, 2], seconds=3.0),
        point("any", 4.0, [0, 0], own=True),
    ]
    cells = pool(points)
    assert [(c.point.model, c.point.stride) for c in cells] == [
        ("any", 4.0),
        ("any", 8.0),
        ("one", 8.0),
    ]
    assert list(cells[1].point.errors) == [0.5, 1.0] and cells[1].wers == [25.0, 50.0]
    assert cells[1].point.wer == 37.5 and cells[1].point.rtf == 0.02
    rows = format_table(points, units).splitlines()
    assert rows[0].startswith("| model | rate | WER, % | of each | 95 % interval |")
    assert rows[3].startswith("| `any` | 8x | 37.5 | 25.0 50.0 | [25.0, 50.0] |")
    left = plot_rates(points, units).axes[0]
    lines = [(list(a.get_xdata()), list(a.get_ydata())) for a in left.lines]
    assert ([4.0, 8.0], [0.0, 37.5]) in lines and ([8.0, 8.0], [25.0, 50.0]) in lines


def test_own_rates_of_many_models_have_filled_marks():
    """The 14th model has no hollow style, as this says something else here."""
    many = [point(f"m{n}", r, [1, 0], own=r < 8) for n in range(15) for r in (4.0, 8.0)]
    lines = plot_rates(many, ["s", "t"]).axes[0].lines
    marks = [m for m in lines if m.get_marker() in MARKERS]
    filled = [m for m in marks if m.get_linestyle() != "-"]
    assert len(filled) == 15
    for mark in filled:
        assert list(mark.get_xdata()) == [4.0]
        assert mark.get_markerfacecolor() == mark.get_color()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    random = np.random.default_rng(0)
    names = []
    for index in range(3):
        path = folder / f"{index}.wav"
        soundfile.write(path, 0.1 * random.standard_normal(RATE), RATE)
        names.append(f"u{index} {path}\n")
    soundfile.write(folder / "short.wav", np.zeros(300), RATE)
    names.append(f"u3 {folder / 'short.wav'}\n")
    (folder / "wav.scp").write_text("".join(names))
    (folder / "text").write_text("u0 AB A\nu1 A\nu2 B B\nu3 A\nu9 not there\n")
    make_experiment(folder / "any")
    conf = {"stride": 8, "channels": 4, "trunk": "conv1d"}
    make_experiment(folder / "fixed", "strided_conv", conf)
    return folder


def test_one_model_at_many_rates_beside_one_of_its_own(data, tmp_path, capsys):
    command = ["--model", f"any={data / 'any'}", "--model", str(data / "fixed")]
    command += ["--data_dir", str(data), "--output_dir", str(tmp_path / "out")]
    command += ["--strides", "2.5", "8"]
    rate_curve.main(command)
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("| `")]
    assert [row.split("|")[1:3] for row in rows] == [
        [" `any` ", " 2.5x "],
        [" `any` ", " 4x, its own "],
        [" `any` ", " 8x "],
        [" `fixed` ", " 8x, its own "],
    ]
    assert (tmp_path / "out" / "rates.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "out" / "rates.md").read_text()
    assert rows[0] in table and "bootstrap over the 4 utterances" in table
    saved = json.loads((tmp_path / "out" / "any_2.5x.json").read_text())
    # a word each for four utterances and two of them a second one
    assert saved["point"]["words"] == [2, 1, 2, 1] and saved["point"]["seconds"] > 0
    assert saved["point"]["audio"] == pytest.approx(3 + 300 / RATE)
    assert len(saved["hypotheses"]) == 4

    rate_curve.main([*command, "--strides", "2.5", "8", "16"])
    again = capsys.readouterr().out
    assert "any at 16x: WER" in again and "any at 8x: WER" not in again
    assert all(row in again for row in rows[3:])
    (tmp_path / "out" / "any_8x.json").write_text('{"work"')  # damaged
    rate_curve.main(command)
    again = capsys.readouterr().out
    assert "any at 8x: WER" in again and "fixed at 8x: WER" not in again
    # another recording in the place of one: all is measured again
    soundfile.write(data / "0.wav", np.zeros(RATE // 2), RATE)
    rate_curve.main(command)
    again = capsys.readouterr().out
    assert "any at 8x: WER" in again and "fixed at 8x: WER" in again


def test_models_of_one_name_and_at_their_own_rate(data, tmp_path, capsys):
    make_experiment(tmp_path / "asr_other", seed=1)
    command = ["--fixed", f"own={data / 'any'}", "--fixed", f"own={data / 'fixed'}"]
    command += ["--fixed", f"own={tmp_path / 'asr_other'}"]
    command += ["--data_dir", str(data), "--output_dir", str(tmp_path / "out")]
    rate_curve.main([*command, "--strides", "2.5", "8"])
    said = capsys.readouterr().out
    rows = [line.split("|")[1:5] for line in said.splitlines() if line[:3] == "| `"]
    assert [row[:2] for row in rows] == [
        [" `own` ", " 4x, its own "],
        [" `own` ", " 8x, its own "],
    ]
    assert [len(row[3].split()) for row in rows] == [2, 1]
    files = sorted(path.name for path in (tmp_path / "out").glob("*.json"))
    assert files == ["own_2_8x.json", "own_3_4x.json", "own_4x.json"]


def test_intervals_are_over_speakers_if_there_are_enough(data, tmp_path, capsys):
    wavs = [line.split()[1] for line in (data / "wav.scp").read_text().splitlines()]
    lines = {"wav.scp": "", "text": "", "utt2spk": ""}
    for number in range(9):
        key = f"u{number}"
        lines["wav.scp"] += f"{key} {wavs[number % 3]}\n"
        lines["text"] += f"{key} A\n"
        lines["utt2spk"] += f"{key} s{number % 8}\n"
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
    command = ["--fixed", str(data / "fixed"), "--data_dir", str(tmp_path)]
    command += ["--output_dir", str(tmp_path / "out")]
    rate_curve.main(command)
    assert "over the 8 speakers, for these models.\n" in capsys.readouterr().out
    (tmp_path / "utt2spk").write_text(lines["utt2spk"].replace(" s7", " s6"))
    rate_curve.main(command)  # seven
    said = capsys.readouterr().out
    assert "over the 9 utterances, for these models; they are too narrow" in said


def test_bad_input_is_one_line(data, tmp_path, monkeypatch):
    def failure(*more):
        base = ["--data_dir", str(data), "--output_dir", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as caught:
            rate_curve.main([*base, *more])
        line = str(caught.value)
        assert line.startswith("error: ") and "\n" not in line
        return line

    any_model = ["--model", str(data / "any")]
    assert "a second model is called any" in failure(*any_model, *any_model)
    named = ["--model", f"a={data / 'any'}"]
    assert "is given twice" in failure(*named, "--fixed", named[1])
    assert "give --model or --fixed" in failure()
    for name in ("", "a/b", "../a"):  # its files would be outside the output folder
        assert "with a name without /" in failure("--model", f"{name}={data / 'any'}")
    monkeypatch.chdir(data / "any")
    assert rate_curve.named_models(["."]) == [("any", ".")]
    assert "no such" in failure("--model", str(tmp_path / "none"))
    (tmp_path / "wav.scp").write_text("a a.wav\n")
    (tmp_path / "text").write_text("b B\n")
    there = ["--data_dir", str(tmp_path)]
    assert "no utterance has both audio and text" in failure(*any_model, *there)
    (tmp_path / "segments").write_text("b a 0 1\n")
    assert "cut the recordings into a new folder" in failure(*any_model, *there)
