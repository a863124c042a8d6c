"""Files of transcripts, and the comparison of times: known answers."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from espnet_adastride.bin import score_times
from espnet_adastride.errors import UserError
from espnet_adastride.timing.ctc import Timed
from espnet_adastride.timing.transcripts import (
    FORMATS,
    Segment,
    clock,
    compare_times,
    ctm_lines,
    join_segments,
    read_ctm,
    read_reference,
    read_textgrid,
    read_timed_reference,
    recording_id,
    subtitles,
    summarise_errors,
)

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT.parent / "shared" / "corpora" / "librispeech_dev-2spk.tar"

TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 2
        points: size = 1
            points [1]:
                number = 0.7
                mark = "words"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2
        intervals: size = 4
            intervals [1]:
                xmin = 0
                xmax = 5e-1
                text = ""
            intervals [2]:
                xmin = 0.5
                xmax = 1.03
                text = "s\u00e4y"
            intervals [3]:
                xmin = 1.03
                xmax = 1.5
                text = " a ""b"" c "
            intervals [4]:
                xmin = 1.6
                xmax = 2
                text = "item [2]:"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 2
        intervals: size = 1
            intervals [1]:
                xmin = 0
                xmax = 2
                text = "S"
"""


def words(*items):
    return [Timed(w, a, b, 0.5) for w, a, b in items]


def transcript(*segments, duration=10.0):
    made = [
        Segment(
            s[0].start, s[-1].end, " ".join(w.text for w in s), list(s), list(s), "ctc"
        )
        for s in segments
    ]
    return join_segments("talks/a b.wav", duration, made)


TALK = transcript(
    words(("SO", 0.5, 0.7512), ("A&B", 0.8, 1.2)), words(("<end>", 9.0, 9.9996))
)


def test_text_and_ctm():
    assert FORMATS["txt"](TALK) == "SO A&B <end>\n"
    assert FORMATS["ctm"](TALK).splitlines() == [
        "a_b 1 0.500 0.251 SO 0.5000",
        "a_b 1 0.800 0.400 A&B 0.5000",
        "a_b 1 9.000 1.000 <end> 0.5000",
    ]
    assert recording_id("x/v1.2") == "v1.2" and recording_id("v1.2.flac") == "v1.2"


def test_json_holds_everything():
    found = json.loads(FORMATS["json"](TALK))
    assert found["name"] == "talks/a b.wav" and found["text"] == "SO A&B <end>"
    first = found["segments"][0]["words"][0]
    assert first == {
        "text": "SO", "word": "SO", "start": 0.5, "end": 0.751, "score": 0.5
    }  # fmt: skip
    assert found["segments"][1]["tokens"][0]["token"] == "<end>"


def test_json_has_the_names_and_values_of_python():
    """Each attribute is a key, at every level; rounding is to 1 ms and 1e-4."""

    def same(ours, read, also=()):
        assert set(read) == {*ours._fields, *also}
        for name in ours._fields:
            value = getattr(ours, name)
            if isinstance(value, float):
                assert read[name] == pytest.approx(value, abs=5e-4), name
            elif not isinstance(value, list):
                assert read[name] == value, name

    found = json.loads(FORMATS["json"](TALK))
    same(TALK, found)
    segments = list(zip(TALK.segments, found["segments"]))
    assert len(segments) == len(found["segments"]) == 2
    spoken = [(TALK.words, found["words"], "word")]
    for ours, read in segments:
        same(ours, read)
        spoken.append((ours.words, read["words"], "word"))
        spoken.append((ours.tokens, read["tokens"], "token"))
    for ours, read, old in spoken:
        assert len(ours) == len(read) > 0
        for a, b in zip(ours, read):
            same(a, b, (old,))
            assert b[old] == b["text"] == a.text
    silent = join_segments("x", 1.0, [Segment(0, 1, "", [], [], "ctc")], silent=True)
    assert json.loads(FORMATS["json"](silent))["silent"] is True


def test_subtitle_files():
    assert FORMATS["srt"](TALK) == (
        "1\n00:00:00,500 --> 00:00:01,500\nSO A&B\n\n"
        "2\n00:00:09,000 --> 00:00:10,000\n<end>\n"
    )
    assert FORMATS["vtt"](TALK) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nSO A&amp;B\n"
        "\n00:00:09.000 --> 00:00:10.000\n&lt;end&gt;\n"
    )
    assert clock(3725.0006, ",") == "01:02:05,001" and clock(59.9999, ".")[3:5] == "01"
    nothing = join_segments("x", 1.0, [Segment(0.0, 1.0, "", [], [], "ctc")])
    assert (FORMATS["srt"](nothing), FORMATS["vtt"](nothing)) == ("", "WEBVTT\n")


def test_subtitles_end_at_pauses_and_never_overlap_or_run_long():
    every = [(f"WORD{i:02d}", 0.3 * i, 0.3 * i + 0.25) for i in range(60)]
    shown = subtitles(transcript(words(*every), duration=18.0))
    assert [w for _, _, lines in shown for w in " ".join(lines).split()] == [
        w for w, _, _ in every
    ]
    assert all(len(lines) <= 2 and max(map(len, lines)) <= 42 for *_, lines in shown)
    assert all(b - a <= 6.0 for a, b, _ in shown)
    assert all(one[1] <= two[0] for one, two in zip(shown, shown[1:]))
    long = "X" * 50  # cannot be broken
    assert subtitles(transcript(words((long, 0, 1))))[0][2] == [long]
    # the second word comes 0.8 s later; the first is shown until then and not longer
    pair = subtitles(transcript(words(("A", 0.0, 0.1), ("B", 0.9, 1.0))))
    assert [(a, b) for a, b, _ in pair] == [(0.0, 0.9), (0.9, 1.9)]


def test_every_subtitle_is_shown_for_a_time():
    def times(*spoken, duration):
        shown = subtitles(transcript(words(*spoken), duration=duration))
        return [(start, end, " ".join(lines)) for start, end, lines in shown]

    last = ("B", 7.0, 7.0004)  # 0 ms, at the end of the recording
    assert times(last, duration=7.0) == [(6.0, 7.0004, "B")]
    assert times(("A", 1.0, 2.0), last, duration=7.0) == [
        (1.0, 2.0, "A"), (6.0, 7.0004, "B"),
    ]  # fmt: skip
    # half of the pause, which the first is not shown in, then
    assert times(("A", 5.9, 6.1), last, duration=7.0) == [
        (5.9, 6.55, "A"), (6.55, 7.0004, "B"),
    ]  # fmt: skip
    # before the end there is time
    assert times(("B", 7.0, 7.0), duration=9.0) == [(7.0, 8.0, "B")]
    # another piece begins there
    made = [words(("A", 1.0, 2.0), last), words(("C", 7.0004, 8.0))]
    found = subtitles(transcript(*made, duration=9.0))
    assert [one[0] for one in found] == [1.0, 6.0, 7.0004]
    assert [one[1] for one in found] == pytest.approx([2.0, 7.0004, 8.0004])
    # no time is left before it
    made = [words(("A", 0.2, 1.4)), words(("B", 1.4, 1.4))]
    assert subtitles(transcript(*made, duration=1.4)) == [(0.2, 1.4, ["A B"])]


def test_no_word_is_left_alone_in_a_subtitle():
    """Fourteen words of 5 letters fill two lines; the fifteenth would stand alone."""
    every = [(f"WD{i:03d}", 0.2 * i, 0.2 * i + 0.2) for i in range(15)]
    shown = subtitles(transcript(words(*every)))
    assert [len(" ".join(lines).split()) for *_, lines in shown] == [7, 8]
    # a pause leaves it alone
    every[-1] = ("LAST", 4.0, 4.2)
    shown = subtitles(transcript(words(*every)))
    assert [len(" ".join(lines).split()) for *_, lines in shown] == [14, 1]
    # 31 words: a full one, and two that share the rest
    every = [(f"WD{i:03d}", 0.2 * i, 0.2 * i + 0.2) for i in range(29)]
    shown = subtitles(transcript(words(*every)))
    assert [len(" ".join(lines).split()) for *_, lines in shown] == [14, 7, 8]


def test_a_language_without_spaces_has_subtitles_of_two_lines():
    """A segment is one word: it is cut between its tokens, at their times."""
    text = "\u4eca\u5929\u5929\u6c14\u5f88\u597d" * 10
    starts = [0.25 * i + (2.0 if i >= 50 else 0.0) for i in range(60)]  # a pause
    tokens = words(*((letter, t, t + 0.2) for letter, t in zip(text, starts)))
    word = Timed(text, 0.0, tokens[-1].end, 0.5)
    whole = [Segment(0.0, 20.0, text, [word], tokens, "ctc")]
    unknown = [whole[0]._replace(tokens=[])]  # times of the letters
    for segments, count in ((whole, 4), (unknown, 3)):
        shown = subtitles(join_segments("x", 20.0, segments))
        assert "".join("".join(lines) for *_, lines in shown) == text
        assert len(shown) == count
        # a letter is as wide as two of Latin
        assert all(len(x) <= 2 and max(map(len, x)) <= 21 for *_, x in shown)
        assert all(b - a <= 6.0 for a, b, _ in shown)
        assert all(one[1] <= two[0] for one, two in zip(shown, shown[1:]))
        if segments is whole:
            assert all(start in starts for start, *_ in shown)
            assert shown[-1][0] == 14.5
    # a word among others stays whole, and so does the space between words
    mixed = transcript(words(("OK", 0, 1), ("\u4eca\u5929", 1, 2), ("OK", 2, 3)))
    assert subtitles(mixed)[0][2] == ["OK \u4eca\u5929 OK"]


def test_ids_of_utterances_are_written_unchanged_and_read_back(tmp_path):
    """Not a file's name: no folder and no suffix is taken off."""
    path = tmp_path / "words.ctm"
    ids = ["s1/utt1", "s2/utt1", "001.wav", "001.flac", "-", "a..b"]
    one = words(("HELLO", 0.5, 1.0))
    path.write_text("".join(f"{line}\n" for i in ids for line in ctm_lines(i, one)))
    assert read_ctm(path) == {i: [Timed("HELLO", 0.5, 1.0, 0.5)] for i in ids}


def test_ctm_is_read_as_written(tmp_path):
    path = tmp_path / "a.ctm"
    path.write_text(";; comment\n\n" + FORMATS["ctm"](TALK) + "b 1 0 1 X\n")
    found = read_ctm(path)
    assert found["a_b"][0] == Timed("SO", 0.5, 0.751, 0.5)
    assert found["b"] == [Timed("X", 0.0, 1.0, 1.0)]
    for line in ("b 1 soon 0.1 B", "b 1 nan 0.1 B", "b 1 0 inf B", "b 1 1 -0.1 B"):
        path.write_text(f"a 1 0.0 0.1 A\n{line}\n")
        with pytest.raises(UserError, match=r"a\.ctm:2: not CTM"):
            read_ctm(path)
    with pytest.raises(UserError, match="none: no such file"):
        read_ctm(tmp_path / "none")


def test_channels_of_a_ctm_are_not_mixed(tmp_path):
    path = tmp_path / "a.ctm"
    path.write_text("u A 0.1 0.4 HELLO\nv B 0 1 YES\nu A 0.5 0.4 WORLD\n")
    assert [w.text for w in read_ctm(path)["u"]] == ["HELLO", "WORLD"]
    path.write_text("u A 0.1 0.4 HELLO\nu B 0.2 0.4 YES\nu A 0.5 0.4 WORLD\n")
    with pytest.raises(UserError, match="a.ctm:2: u has two channels, A and B; give"):
        read_ctm(path)


def test_textgrids(tmp_path):
    short = re.findall(r'".*"|<exists>|(?<= )[\d.e-]+$', TEXTGRID, re.M)
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text, encoding in (
        ("long", TEXTGRID, "utf-8"),
        ("dos", TEXTGRID.replace("\n", "\r\n"), "utf-8-sig"),
        ("short", "\n".join(short), "utf-8"),
        ("utf16", TEXTGRID, "utf-16"),
        ("short16", "\n".join(short), "utf-16"),
    ):
        (folder / f"{name}.TextGrid").write_bytes(text.encode(encoding))
    read = read_reference(tmp_path)
    assert len(read) == 5
    for name, timed in read.items():
        assert timed == [
            Timed("s\u00e4y", 0.5, 1.03, 1.0),
            Timed('a "b" c', 1.03, 1.5, 1.0),
            Timed("item [2]:", 1.6, 2.0, 1.0),
        ], name
    assert read_textgrid(folder / "short.TextGrid", "phones") == [Timed("S", 0, 2, 1)]
    with pytest.raises(UserError, match='no tier named "letters"'):
        read_textgrid(folder / "long.TextGrid", "letters")
    last = TEXTGRID.index("intervals [4]")
    for text in ("", "hello", TEXTGRID[:last], TEXTGRID.replace("1.03", "1..03")):
        (tmp_path / "x.TextGrid").write_text(text)
        with pytest.raises(UserError, match="x.TextGrid: not a TextGrid, or cut off"):
            read_textgrid(tmp_path / "x.TextGrid")
    (tmp_path / "empty").mkdir()
    # of several speakers, who read the same sentences
    for name in ("bdl", "slt"):
        (tmp_path / "arctic" / name).mkdir(parents=True)
        (tmp_path / "arctic" / name / "a0001.TextGrid").write_text(TEXTGRID)
    for read in (read_reference, read_timed_reference):
        with pytest.raises(UserError, match="slt/a0001.TextGrid and .*have the same n"):
            read(tmp_path / "arctic")
    with pytest.raises(UserError, match="no .*TextGrid in it"):
        read_reference(tmp_path / "empty")


@pytest.mark.skipif(
    not CORPUS.is_file(), reason=f"no published alignments: {CORPUS} is not there"
)
def test_published_alignments(tmp_path):
    """LibriSpeech's: all words of the transcript, in order, one after the other."""
    with tarfile.open(CORPUS) as pack:
        names = [n for n in pack.getnames() if n.endswith(".TextGrid")]
        for name in names[::20]:
            content = pack.extractfile(name).read()
            (tmp_path / Path(name).name).write_bytes(content)
    assert len(names) == 248
    for timed in read_reference(tmp_path).values():
        assert all(w.end > w.start and w.text.isascii() for w in timed)
        assert all(a.end <= b.start + 1e-6 for a, b in zip(timed, timed[1:]))


def test_errors_of_times():
    ours = {"u": words(("A", 1.0, 2.0), ("B", 2.5, 3.0)), "v": words(("A", 0, 1)),
            "w": words(("A", 0, 1))}  # fmt: skip
    theirs = {"u": words(("a", 0.9, 2.2), ("b", 2.55, 3.0)), "v": words(("B", 0, 1))}
    errors = compare_times(ours, theirs)
    assert errors.words == 2
    np.testing.assert_allclose(errors.starts, [100, -50])
    np.testing.assert_allclose(errors.ends, [-200, 0], atol=1e-9)
    assert (errors.different, errors.missing) == (["v"], ["w"])
    numbers = summarise_errors(np.array([-10.0, 20.0, 30.0]))
    assert (numbers["median"], numbers["p90"], numbers["bias"]) == (20, 28, 20)


def test_an_unknown_word_of_the_reference_stands_for_any():
    ours = {"u": words(("A", 1, 2), ("ODD", 2, 3), ("B", 3.5, 4)),
            "v": words(("A", 0, 1), ("B", 1, 2))}  # fmt: skip
    theirs = {"u": words(("a", 0.9, 2), ("<unk>", 5, 6), ("b", 3, 4)),
              "v": words(("a", 0, 1), ("<unk>", 1, 2), ("b", 2, 3))}  # fmt: skip
    errors = compare_times(ours, theirs)
    np.testing.assert_allclose(errors.starts, [100, 500])
    np.testing.assert_allclose(errors.ends, [0, 0], atol=1e-9)
    assert (errors.words, errors.different) == (2, ["v"])


def test_silences_of_an_aligner_are_no_words(tmp_path, capsys):
    """In a CTM or a TextGrid, of the reference or compared with it."""
    one, two, ref = (tmp_path / name for name in ("one.ctm", "two.ctm", "ref.ctm"))
    one.write_text("u 1 0.1 0.4 HELLO\nu 1 0.5 0.5 WORLD\n")
    two.write_text("u 1 0 0.2 <eps>\nu 1 0.2 0.4 HELLO\nu 1 0.6 0.5 WORLD\n")
    ref.write_text("u 1 0 0.1 SIL\nu 1 0.1 0.4 hello\nu 1 0.5 0.5 world\n")
    output = tmp_path / "x.json"
    command = ["--ctm", str(one), str(two), "--output", str(output), "--ref"]
    score_times.main([*command, str(ref)])
    numbers = json.loads(output.read_text())
    for path, late in ((one, 0), (two, 100)):
        assert numbers[str(path)]["words"] == 2
        assert numbers[str(path)]["start"]["median"] == pytest.approx(late)
    (tmp_path / "grids").mkdir()
    grid = tmp_path / "grids" / "u.TextGrid"
    grid.write_text(TEXTGRID.replace('"item [2]:"', '"sp"'))
    words = [w.text for w in read_timed_reference(grid).words["u"]]
    assert words == [w.text for w in read_reference(grid.parent)["u"]]
    assert words == ["s\u00e4y", 'a "b" c']


def test_the_command_compares_over_common_utterances(tmp_path, capsys):
    ref, one, two = (tmp_path / name for name in ("ref.ctm", "one.ctm", "two.ctm"))
    ref.write_text("u 1 1.0 1.0 a\nv 1 1.0 1.0 b\n")
    one.write_text("u 1 1.1 1.0 A\nv 1 3.0 1.0 B\n")
    two.write_text("u 1 1.0 0.9 A\nv 1 1.0 1.0 C\n")
    output = tmp_path / "numbers" / "x.json"
    score_times.main(
        ["--ctm", str(one), str(two), "--ref", str(ref), "--output", str(output)]
    )
    printed = capsys.readouterr().out
    assert f"{two}: 1 utterance with words that differ from the reference: v" in printed
    numbers = json.loads(output.read_text())
    assert numbers[str(one)]["words"] == 1  # v is out for both
    assert numbers[str(one)]["absent"] == [] and "another CTM" not in printed
    assert numbers[str(one)]["start"]["median"] == pytest.approx(100)
    assert numbers[str(two)]["end"]["bias"] == pytest.approx(-100)
    two.write_text("u 1 1.0 0.9 A\n")
    score_times.main(["--ctm", str(one), str(two), "--ref", str(ref)])
    printed = capsys.readouterr().out
    assert f"{two}: 1 utterance in another CTM and not in this one: v" in printed
    ref.write_text("x 1 0 1 a\n")
    with pytest.raises(SystemExit, match="no utterance with the words"):
        score_times.main(["--ctm", str(one), "--ref", str(ref)])
    ref.write_text("u 1 0 1 <unk>\n")
    with pytest.raises(SystemExit, match="every word of u is <unk>, whose times"):
        score_times.main(["--ctm", str(two), "--ref", str(ref)])
    two.write_text("")
    for words, reference in ((two, ref), (one, two)):
        with pytest.raises(SystemExit, match="two.*: no words in it"):
            score_times.main(["--ctm", str(words), "--ref", str(reference)])
