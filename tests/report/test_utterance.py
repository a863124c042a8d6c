"""The picture says what the signal and the boundaries say."""

import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text

from espnet_adastride.errors import UserError
from espnet_adastride.report import fonts, utterance
from espnet_adastride.report.style import save_figure
from espnet_adastride.report.utterance import (
    StridePicture,
    energy_db,
    frame_edges,
    is_speech,
    label_width,
    log_mel,
    mel,
    place_labels,
    plot_strides,
    stride_scale,
    summary,
    windows_of_column,
)
from espnet_adastride.timing.ctc import Timed

RATE = 16000


def tone(seconds=2.0, start=0.5, stop=1.5, hertz=1000.0, level=0.5, floor=1e-3):
    """Return a tone from start to stop in white noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = floor * np.random.default_rng(0).standard_normal(len(time))
    wave += level * np.sin(2 * np.pi * hertz * time) * ((time >= start) & (time < stop))
    return wave.astype(np.float32)


@pytest.fixture
def picture():
    # 4 frames in each quiet half second, 30 in the second of the tone
    boundaries = np.concatenate(
        [
            np.linspace(0, 0.5, 5)[:-1],
            np.linspace(0.5, 1.5, 31)[:-1],
            np.linspace(1.5, 2.0, 5),
        ]
    )
    return StridePicture(
        utterance="spk-0001",
        wave=tone(),
        rate=RATE,
        step=0.01,
        boundaries=boundaries,
        uniform=np.append(np.arange(0, 2.0, 0.05), 2.0)[:41],
        method="adastride, 5x",
        reference="A TONE OF $1 AND $2",
        hypothesis="",
    )


def texts(figure):
    """Return everything that is written in a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_energy_of_a_sine_is_minus_3_db():
    energy = energy_db(tone(level=1.0), RATE)
    edges = frame_edges(tone(), RATE)
    middle = (edges[:-1] + edges[1:]) / 2
    np.testing.assert_allclose(
        energy[(middle > 0.55) & (middle < 1.45)], -3.01, atol=0.05
    )
    np.testing.assert_allclose(energy[(middle > 0.02) & (middle < 0.45)], -60, atol=2)


def test_speech_is_where_the_tone_is():
    edges = frame_edges(tone(), RATE)
    speech = is_speech(energy_db(tone(), RATE))
    inside = edges[:-1][speech]
    # windows of 25 ms reach a little over the ends
    assert 0.48 <= inside.min() <= 0.5 and 1.49 <= inside.max() <= 1.515
    assert speech.sum() == pytest.approx(1.0 / utterance.HOP, abs=4)


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 5000.0])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_tone_lights_its_mel_bin(hertz, rate):
    if hertz > rate / 2:
        hertz = 3500.0
    wave = np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
    image = log_mel(wave, rate)
    assert image.shape == (utterance.MEL_BINS, len(energy_db(wave, rate)))
    assert np.isfinite(image).all()
    brightest = image[:, 100].argmax()
    expected = mel(hertz) / mel(rate / 2) * (utterance.MEL_BINS + 1) - 1
    assert abs(brightest - expected) <= 1


def test_columns_stand_at_their_times():
    wave = np.zeros(RATE, dtype=np.float32)
    wave[RATE // 2] = 1.0
    energy = energy_db(wave, RATE)
    lit = np.flatnonzero(energy > -80)
    edges = frame_edges(wave, RATE)
    assert (edges[lit[0]] + edges[lit[-1] + 1]) / 2 == pytest.approx(0.5, abs=0.003)


def test_summary_counts_the_frames_on_speech(picture):
    rate, shares = summary(picture)
    assert rate.startswith(
        "38 frames in 2.00 s, 19.0 per second; mean 53 ms = 5.3 input"
    )
    # 30 of 38 frames are in the tone, and the windows' reach adds parts of two
    assert "speech (energy within 30 dB of the loudest): 51 % of the time" in shares
    assert "79 % of the frames; silence: 49 % of the time, 21 % of the frames" in shares


def test_summary_of_a_silent_recording(picture):
    picture.wave = np.zeros_like(picture.wave)
    assert summary(picture)[1] == "the recording is silent"
    plot_strides(picture)


def test_uniform_is_the_middle_of_the_scale(picture):
    scale = stride_scale(picture)
    assert float(scale(50.0)) == pytest.approx(0.5)
    assert float(scale(scale.vmin)) == 0 and float(scale(scale.vmax)) == 1
    values = scale(np.geomspace(scale.vmin, scale.vmax, 50))
    assert (np.diff(values) > 0).all()
    # what hardly varies is not blown up to the ends of the scale
    picture.boundaries = picture.uniform + 1e-4 * np.sin(40 * picture.uniform)
    shades = stride_scale(picture)(1000 * np.diff(picture.boundaries))
    assert np.abs(shades - 0.5).max() < 0.02


def test_the_picture_holds_its_data(picture):
    figure = plot_strides(picture)
    spectrogram, strips, curve = figure.axes[:3]
    lines = spectrogram.collections[0].get_segments()
    np.testing.assert_allclose([line[0][0] for line in lines], picture.boundaries[1:-1])
    widths = strips.collections[1].get_array().ravel()
    np.testing.assert_allclose(widths, 1000 * np.diff(picture.boundaries))
    adaptive = next(x for x in curve.lines if x.get_label() == "adaptive")
    np.testing.assert_allclose(
        adaptive.get_ydata()[::2], np.diff(picture.boundaries) / 0.01
    )
    np.testing.assert_allclose(adaptive.get_xdata()[::2], picture.boundaries[:-1])
    assert curve.get_xlim() == (0, picture.duration)
    written = texts(figure)
    for words in ("spk-0001", "adastride, 5x", "A TONE OF $1 AND $2", "(nothing)"):
        assert words in written


def test_the_hypothesis_says_which_search_found_it(picture):
    assert "HYP:  (nothing)" in texts(plot_strides(picture))
    picture.hypothesis_from = "greedy CTC"
    assert "HYP (greedy CTC):  (nothing)" in texts(plot_strides(picture))


def test_everything_written_lies_within_the_picture(picture):
    picture.reference = " ".join(["PARLIAMENT"] * 60)
    figure = plot_strides(picture)
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            assert text.get_fontsize() >= 9
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0, text.get_text()
            assert box.x1 <= width and box.y1 <= height, text.get_text()


def test_the_transcripts_of_hours_leave_room_for_the_picture(picture):
    """Three hours of speech; whole, they would exceed the pixels of a PNG file."""
    picture.reference = picture.hypothesis = " ".join(["PARLIAMENT"] * 25000)
    figure = plot_strides(picture)
    assert figure.get_figheight() < 12
    assert texts(figure).count("PARLIAMENT [...]") == 2


@pytest.mark.parametrize("shortest, longest", [(1e-6, 0.1), (0.05, 1.9), (1e-6, 1.9)])
def test_extreme_frames_keep_the_labels_apart(picture, shortest, longest):
    middle = np.linspace(0.01, 2.0 - longest, 30)
    picture.boundaries = np.r_[0.0, middle, middle[-1] + shortest, 2.0]
    figure = plot_strides(picture)
    figure.draw_without_rendering()
    (curve,) = [axes for axes in figure.axes if axes.get_yscale() == "log"]
    assert curve.get_ylim()[0] >= 5 / 16
    boxes = [label.get_window_extent() for label in curve.get_yticklabels()]
    assert len(boxes) >= 3
    assert all(one.y1 < two.y0 for one, two in zip(boxes, boxes[1:]))


def test_columns_of_hours_are_means_in_the_same_places():
    wave = tone(60.0, start=20.0, stop=40.0)
    frames = len(frame_edges(wave, RATE)) - 1
    group = windows_of_column(frames)
    assert (group, windows_of_column(10000), windows_of_column(10**9)) == (2, 1, 2000)
    single = 10 ** (log_mel(wave, RATE) / 10)
    whole = 10 ** (log_mel(wave, RATE, group) / 10)
    np.testing.assert_allclose(
        whole,
        single.reshape(len(single), -1, group).mean(axis=2),
        rtol=1e-6,
        atol=2e-10,
    )
    # the last column may have fewer
    short = log_mel(wave[: 3 * RATE // 200], RATE, 2)
    np.testing.assert_allclose(
        short[:, 1], log_mel(wave[: 3 * RATE // 200], RATE)[:, 2]
    )


def test_labels_do_not_overlap():
    words = [Timed("EXTRAORDINARY", 0.1 * i, 0.1 * (i + 1), 1.0) for i in range(12)]
    rows = place_labels(words, 2.0, 500.0)
    assert rows[:4] == [0, 1, 2, -1] and max(rows) == 2
    for row in range(3):
        ends = []
        for word, own in zip(words, rows):
            if own == row:
                size = label_width(word.text)
                middle = max((word.start + word.end) / 2 / 2.0 * 500, size / 2)
                ends += [middle - size / 2, middle + size / 2]
        assert ends == sorted(ends) and len(ends) >= 4
    assert place_labels(words[::5], 2.0, 500.0) == [0, 0, 0]


def test_words_and_phones_stand_above_the_spectrogram(picture):
    picture.words = [Timed("ONE", 0.5, 0.9, 1.0), Timed("$2", 1.0, 1.5, 1.0)]
    picture.phones = [Timed("W", 0.5, 0.6, 1.0)]
    picture.times_from = "a friend"
    figure = plot_strides(picture)
    spectrogram = figure.axes[0].get_position()
    phones, words = figure.axes[-2:]
    assert words.get_position().y0 > phones.get_position().y1 - 1e-9
    assert phones.get_position().y0 > spectrogram.y1
    assert [t.get_text() for t in words.texts] == ["ONE", "$2"]
    assert words.get_xlim() == figure.axes[0].get_xlim()
    assert [list(x.get_xdata()) for x in words.lines] == [[0.5, 0.9], [1.0, 1.5]]
    assert "times of the words: a friend" in texts(figure)


def test_boundaries_have_the_colour_of_their_frames(picture):
    lines = plot_strides(picture).axes[0].collections[0].get_colors()
    # quiet frames are long: more red than blue; those of the tone the other way round
    assert lines[1][0] > lines[1][2] and lines[15][0] < lines[15][2]


def test_frames_of_no_width_are_drawn(picture):
    picture.boundaries = np.sort(np.append(picture.boundaries, [0.5, 0.5]))
    figure = plot_strides(picture)
    curve = next(x for x in figure.axes[2].lines if x.get_label() == "adaptive")
    assert np.isfinite(curve.get_ydata()).all() and (curve.get_ydata() > 0).all()


def test_boundaries_of_another_recording_are_refused(picture):
    picture.boundaries = picture.boundaries * 1.1
    with pytest.raises(ValueError, match="must run from 0 to 2.0 s"):
        plot_strides(picture)


@pytest.mark.parametrize(
    "kind, magic", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_save(tmp_path, picture, kind, magic):
    save_figure(plot_strides(picture), tmp_path / f"strides.{kind}")
    assert (tmp_path / f"strides.{kind}").read_bytes().startswith(magic)
    assert len(list(tmp_path.iterdir())) == 1


def test_control_characters_are_escaped(tmp_path, picture, recwarn):
    picture.reference = "A \x1b[31m B\x01"
    picture.utterance = "caf\udce9\x7f"
    picture.words = [Timed("A\x1b--", 0.1, 0.4, 1.0), Timed("B\x01", 0.6, 0.9, 1.0)]
    figure = plot_strides(picture)
    for kind in "svg", "png", "pdf":
        save_figure(figure, tmp_path / f"x.{kind}")
    ElementTree.parse(tmp_path / "x.svg")
    assert "A \\x1b[31m B\\x01" in texts(figure) and "caf\\xe9\\x7f" in texts(figure)
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_failed_save_leaves_the_old_file(tmp_path, picture, monkeypatch):
    path = tmp_path / "strides.png"
    path.write_bytes(b"old")
    figure = plot_strides(picture)

    def full(name, **_):
        name.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError):
        save_figure(figure, path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        save_figure(figure, tmp_path / "strides.bmp")


def test_letters_that_the_usual_font_lacks(picture, tmp_path, caplog, monkeypatch):
    """U+1D84 is in STIXGeneral, which comes with matplotlib, and not in DejaVu Sans."""
    assert fonts.fonts_for("ÀΩж $1") == {}
    picture.reference = "\u1d84 A"
    picture.words = [Timed("\u1d84", 0.5, 1.0, 1.0)]
    families = {
        tuple(t.get_fontfamily()) for t in drawn(plot_strides(picture), "\u1d84")
    }
    (family,) = families
    assert family[0] == "DejaVu Sans" and len(family) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(plot_strides(picture), tmp_path / "found.png")
    assert not caplog.records
    # no font at all: one line, once, and still a picture
    monkeypatch.setattr(fonts, "_installed", dict)
    picture.utterance = "\u1d84\u1d85"
    for name in ("a.png", "b.png"):
        save_figure(plot_strides(picture), tmp_path / name)
    (record,) = caplog.records
    assert "no installed font has the characters \u1d84" in record.message
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "found.png").read_bytes()


def test_lines_of_wide_letters_are_not_wider(picture):
    picture.reference = "\u4e2d\u6587" * 150
    picture.hypothesis = "AN EVEN LONGER ONE " * 20
    (block,) = drawn(plot_strides(picture), "REF:")
    lines = block.get_text().splitlines()
    wide = max(len(line) for line in lines if "\u4e2d" in line)
    narrow = max(len(line) for line in lines if "EVEN" in line)
    assert 40 <= wide <= 56 and 80 <= narrow <= 104


def drawn(figure, letter):
    """Return the texts of a figure with a letter."""
    return [text for text in figure.findobj(Text) if letter in text.get_text()]
