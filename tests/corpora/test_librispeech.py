"""Data preparation: LibriSpeech's layout, everything that can be wrong with it."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin import prepare_librispeech as prepare
from espnet_adastride.corpora import kaldi, librispeech
from espnet_adastride.corpora.kaldi import (
    Excluded,
    Utterance,
    read_scp,
    read_text,
    write_data_dir,
)
from espnet_adastride.corpora.librispeech import find_librispeech, scan_librispeech
from espnet_adastride.errors import UserError
from espnet_adastride.files import written_whole

LOCAL = Path(__file__).parents[2] / "egs" / "librispeech_100" / "local"
NOISE = np.random.default_rng(0).integers(-3000, 3000, 40000).astype("int16")


def add_chapter(part: Path, speaker="12", chapter="34", texts=("A B", "C D", "E F")):
    """Write one chapter; utterance i is 800 + i samples of noise."""
    folder = part / speaker / chapter
    folder.mkdir(parents=True)
    lines = []
    for i, text in enumerate(texts):
        key = f"{speaker}-{chapter}-{i:04d}"
        soundfile.write(folder / f"{key}.flac", NOISE[: 800 + i], 16000)
        lines.append(f"{key} {text}\n")
    (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def root(tmp_path):
    """A corpus with one part of one chapter of three utterances."""
    path = tmp_path / "my corpora" / "LibriSpeech"
    add_chapter(path / "dev-x")
    return path


@pytest.fixture
def chapter(root):
    return root / "dev-x" / "12" / "34"


def run(root, output, *options):
    prepare.main(
        ["--corpus", str(root), "--output", str(output), "--nj", "1"]
        + (["--part", "dev-x"] if "--part" not in options else [])
        + list(options)
    )


@pytest.fixture
def train_clean(tmp_path):
    """The chapters of sample_8h.txt with an utterance more, without sound."""
    lines = (LOCAL / "sample_8h.txt").read_text().splitlines()
    for _, chapter, number in map(str.split, lines):
        folder = tmp_path / "LibriSpeech/train-clean-100" / chapter.replace("-", "/")
        folder.mkdir(parents=True)
        names = [f"{chapter}-{i:04d}" for i in range(int(number) + 1)]
        for name in names:
            (folder / f"{name}.flac").touch()
        text = "".join(f"{name} A\n" for name in names)
        (folder / f"{chapter}.trans.txt").write_text(text)
    (tmp_path / "LibriSpeech/test-clean").mkdir()
    return tmp_path / "LibriSpeech"


def test_the_sample_of_eight_hours(train_clean, tmp_path):
    words = ["bash", str(LOCAL / "sample_8h.sh"), str(tmp_path), str(tmp_path / "out")]
    for _ in range(2):  # the second time changes nothing
        subprocess.run(words, check=True, capture_output=True)
        for part, size in (("train-clean-100", 2334), ("dev-2spk", 248)):
            found = sorted((tmp_path / "out" / part).rglob("*.flac"))
            assert len(found) == size and all(path.exists() for path in found)
            texts = (tmp_path / "out" / part).rglob("*.trans.txt")
            lines = sorted("".join(path.read_text() for path in texts).splitlines())
            assert lines == [f"{path.stem} A" for path in found]
    gone = train_clean / "train-clean-100/8226/274371/8226-274371-0007.flac"
    gone.unlink()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    line = f"error: {gone} is missing; get train-clean-100 again\n"
    assert done.stderr == line


def kinds(scan):
    return {(e.id, e.kind) for e in scan.excluded}


def test_data_dir_of_a_sound_corpus(root, tmp_path, capsys):
    add_chapter(root / "dev-x", "2", "1", ["G  H I"])
    run(root.parent, tmp_path / "data" / "dev x")
    out = tmp_path / "data" / "dev x"
    flac = root / "dev-x"
    # C locale order: "12-..." before "2-..."; absolute paths, blanks included.
    assert (out / "wav.scp").read_text() == (
        f"12-34-0000 {flac}/12/34/12-34-0000.flac\n"
        f"12-34-0001 {flac}/12/34/12-34-0001.flac\n"
        f"12-34-0002 {flac}/12/34/12-34-0002.flac\n"
        f"2-1-0000 {flac}/2/1/2-1-0000.flac\n"
    )
    assert (out / "text").read_text() == (
        "12-34-0000 A B\n12-34-0001 C D\n12-34-0002 E F\n2-1-0000 G  H I\n"
    )
    assert (out / "utt2spk").read_text() == (
        "12-34-0000 12-34\n12-34-0001 12-34\n12-34-0002 12-34\n2-1-0000 2-1\n"
    )
    assert (out / "spk2utt").read_text() == (
        "12-34 12-34-0000 12-34-0001 12-34-0002\n2-1 2-1-0000\n"
    )
    assert (out / "utt2num_samples").read_text() == (
        "12-34-0000 800\n12-34-0001 801\n12-34-0002 802\n2-1-0000 800\n"
    )
    assert (out / "excluded.txt").read_text() == "# id\tfile\treason\twhat was done\n"
    assert "4 utterances" in capsys.readouterr().out
    assert read_scp(out / "wav.scp")["2-1-0000"] == f"{flac}/2/1/2-1-0000.flac"
    assert read_scp(out / "text")["2-1-0000"] == "G  H I"
    assert sorted(p.name for p in out.parent.iterdir()) == ["dev x"]


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def overwrite(path):
    data = bytearray(path.read_bytes())
    data[-400:-350] = bytes(50)
    path.write_bytes(bytes(data))


def damage_checksum(path):
    data = bytearray(path.read_bytes())
    data[30] ^= 1  # within the MD5 sum of STREAMINFO
    path.write_bytes(bytes(data))


def not_flac(path):
    path.write_text("<html>404 Not Found</html>")


def no_samples(path):
    soundfile.write(path, NOISE[:0], 16000, format="WAV")


def empty(path):
    path.write_bytes(b"")


def slow(path):
    soundfile.write(path, NOISE[:800], 8000)


def stereo(path):
    soundfile.write(path, NOISE[:800].reshape(-1, 2), 16000)


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere.flac")


@pytest.mark.parametrize(
    "damage, kind, detail",
    [
        (cut, librispeech.NOT_DECODABLE, "lost sync"),
        (overwrite, librispeech.NOT_DECODABLE, ""),
        (damage_checksum, librispeech.NOT_DECODABLE, "checksum"),
        (not_flac, librispeech.NOT_DECODABLE, "Format not recognised"),
        (dangling, librispeech.NOT_DECODABLE, "cannot be opened"),
        (no_samples, librispeech.EMPTY_AUDIO, "no samples"),
        (empty, librispeech.EMPTY_AUDIO, "0 bytes"),
        (slow, librispeech.WRONG_RATE, "8000 Hz instead of 16000 Hz"),
        (stereo, librispeech.NOT_MONO, "2 channels"),
        (Path.unlink, librispeech.NO_AUDIO, ""),
    ],
)
def test_bad_recording_is_left_out_by_name(
    root, chapter, tmp_path, capsys, damage, kind, detail
):
    damage(chapter / "12-34-0001.flac")
    run(root, tmp_path / "out")
    assert list(read_text(tmp_path / "out" / "text")) == ["12-34-0000", "12-34-0002"]
    for name in ("wav.scp", "utt2spk", "spk2utt", "utt2num_samples"):
        assert "12-34-0001" not in (tmp_path / "out" / name).read_text()
    (line,) = (tmp_path / "out" / "excluded.txt").read_text().splitlines()[1:]
    key, file, reason, done = line.split("\t")
    assert key == "12-34-0001" and done == librispeech.LEFT_OUT
    assert file.startswith(str(chapter)) and reason.startswith(kind)
    assert detail in reason
    out = capsys.readouterr().out
    assert f"1 x {kind} (12-34-0001)" in out and "2 utterances" in out
    # the same corpus is refused when asked to be strict, and nothing is written
    with pytest.raises(SystemExit, match="--strict.*12-34-0001") as stop:
        run(root, tmp_path / "strict", "--strict")
    assert "\n" not in str(stop.value) and not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    "line, kind, left",
    [
        ("", librispeech.NO_TRANSCRIPT, 2),
        ("12-34-0001\n", librispeech.EMPTY_TRANSCRIPT, 2),
        ("12-34-0001  \n", librispeech.EMPTY_TRANSCRIPT, 2),
        (" 12-34-0001 C D\n", librispeech.MALFORMED_TRANSCRIPT, 2),
        ("12-34-0001 C D\n12-34-0001 C D\n", librispeech.DUPLICATE_ID, 2),
        ("12-34-0001 C D\n12-34-0009 X\n", librispeech.NO_AUDIO, 3),
        ("12-34-0001 C D\n12-35-0009 X\n", librispeech.MISPLACED, 3),
        ("12-34-0001 C D\n\n", librispeech.MALFORMED_TRANSCRIPT, 3),
    ],
)
def test_bad_transcript_is_left_out_by_name(root, chapter, line, kind, left):
    text = f"12-34-0000 A B\n{line}12-34-0002 E F\n"
    (chapter / "12-34.trans.txt").write_bytes(text.encode())
    scan = scan_librispeech(root, ["dev-x"], progress=False)
    assert len(scan.utterances) == left
    assert kind in {e.kind for e in scan.excluded}
    if left == 2:
        assert "12-34-0001" not in {u.id for u in scan.utterances}
        assert "12-34-0001" in {e.id for e in scan.excluded} or line.startswith(" ")


def test_transcripts_as_editors_save_them(root, chapter):
    text = "\ufeff12-34-0000\tA B\r\n12-34-0001 C D\r\n12-34-0002 E F"
    (chapter / "12-34.trans.txt").write_bytes(text.encode())
    scan = scan_librispeech(root, ["dev-x"], progress=False)
    assert [u.text for u in scan.utterances] == ["A B", "C D", "E F"]
    assert not scan.excluded


def test_transcripts_that_are_not_utf8_or_not_there(root, chapter):
    (chapter / "12-34.trans.txt").write_bytes(b"12-34-0000 CAF\xc9\n12-34-0001 C\n")
    scan = scan_librispeech(root, ["dev-x"], progress=False)
    assert [u.id for u in scan.utterances] == ["12-34-0001"]
    assert ("12-34-0000", librispeech.MALFORMED_TRANSCRIPT) in kinds(scan)
    (chapter / "12-34.trans.txt").write_bytes(b"")
    scan = scan_librispeech(root, ["dev-x"], progress=False)
    assert ("-", librispeech.MALFORMED_TRANSCRIPT) in kinds(scan)
    assert sum(e.kind == librispeech.NO_TRANSCRIPT for e in scan.excluded) == 3
    (chapter / "12-34.trans.txt").unlink()
    scan = scan_librispeech(root, ["dev-x"], progress=False)
    assert {e.kind for e in scan.excluded} == {librispeech.NO_TRANSCRIPT}


def test_files_at_the_wrong_place(root, chapter):
    for name in ("12-34-0000 (copy).flac", "99-34-0000.flac", "._12-34-0000.flac"):
        (chapter / name).write_bytes(b"x")
    (chapter.parent / "12-34-0005.flac").write_bytes(b"x")
    (chapter / "notes.md").write_text("x")
    scan = scan_librispeech(root, ["dev-x"], progress=False)
    assert len(scan.utterances) == 3 and scan.recordings == 7
    assert kinds(scan) == {
        (key, librispeech.MISPLACED)
        for key in (
            "12-34-0000 (copy)",
            "99-34-0000",
            "._12-34-0000",
            "12-34-0005",
        )
    }
    assert [os.path.basename(p) for p in scan.ignored] == ["notes.md"]


def test_links_are_followed_and_stay_in_the_paths(root, chapter, tmp_path):
    elsewhere = tmp_path / "other disk"
    elsewhere.mkdir()
    chapter.parent.rename(elsewhere / "12")
    (root / "dev-x" / "12").symlink_to(elsewhere / "12")
    for name in ("round", "again"):  # two loops: following both would never end
        (elsewhere / "12" / name).symlink_to(root)
    scan = scan_librispeech(root, ["dev-x"], progress=False)
    assert [Path(u.audio).parent for u in scan.utterances] == [chapter] * 3


def test_parts_are_read_as_one_set_and_duplicates_across_them_left_out(root, tmp_path):
    add_chapter(root / "dev-y", "12", "34", ["X"])
    add_chapter(root / "dev-y", "56", "7", ["Y"])
    run(root, tmp_path / "out", "--part", "dev-x", "dev-y")
    assert list(read_text(tmp_path / "out" / "text")) == [
        "12-34-0001",
        "12-34-0002",
        "56-7-0000",
    ]
    (line,) = (tmp_path / "out" / "excluded.txt").read_text().splitlines()[1:]
    assert librispeech.DUPLICATE_ID in line and "dev-x" in line and "dev-y" in line


def test_many_processes_give_what_one_gives(root, chapter):
    add_chapter(root / "dev-x", "77", "1", [f"T{i}" for i in range(100)])
    cut(chapter / "12-34-0001.flac")
    one = scan_librispeech(root, ["dev-x"], nj=1, progress=False)
    two = scan_librispeech(root, ["dev-x"], nj=2, progress=False)
    assert one == two and len(one.utterances) == 102


def test_names_are_shortened_on_the_terminal_and_complete_in_the_file(
    root, tmp_path, capsys
):
    folder = add_chapter(root / "dev-x", "77", "1", [f"T{i}" for i in range(9)])
    for path in folder.glob("*.flac"):
        path.write_bytes(b"")
    run(root, tmp_path / "out", "--max_names", "2")
    assert "9 x empty recording (77-1-0000, 77-1-0001 and 7 more)" in (
        capsys.readouterr().out
    )
    assert (tmp_path / "out" / "excluded.txt").read_text().count("\n77-1-") == 9


@pytest.mark.parametrize(
    "make, pattern",
    [
        (lambda p: "", "path of LibriSpeech is empty.*LIBRISPEECH=.*db.sh"),
        (lambda p: p / "nowhere", "nowhere does not exist.*LIBRISPEECH=.*db.sh"),
        (lambda p: p, "no part of LibriSpeech"),
        (lambda p: p / "my corpora/LibriSpeech/dev-x", "itself a part"),
        (lambda p: p / "my corpora/LibriSpeech/dev-x/12/34/12-34.trans.txt", "folder"),
    ],
)
def test_missing_corpus_is_one_clear_line(root, tmp_path, make, pattern):
    with pytest.raises(SystemExit, match=pattern) as stop:
        run(make(tmp_path), tmp_path / "out")
    assert "\n" not in str(stop.value) and not (tmp_path / "out").exists()


def test_missing_part_names_those_that_are_there(root, tmp_path, capsys):
    add_chapter(root / "test-y")
    options = ("--part", "dev-x", "dev-z")
    with pytest.raises(SystemExit, match="not in .*: dev-z; .*: dev-x, test-y"):
        run(root, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
    run(root, tmp_path / "out", *options, "--skip_missing_parts")
    assert "dev-z" in capsys.readouterr().out
    assert len(read_scp(tmp_path / "out" / "text")) == 3
    with pytest.raises(SystemExit, match="dev-z"):
        run(root, tmp_path / "out", "--part", "dev-z", "--skip_missing_parts")


def test_nothing_usable_is_an_error(root, chapter, tmp_path):
    for path in chapter.glob("*.flac"):
        path.write_bytes(b"")
    with pytest.raises(SystemExit, match="no usable utterance in dev-x"):
        run(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_incomplete_published_part_is_noticed(root):
    add_chapter(root / "dev-clean")
    scan = scan_librispeech(root, ["dev-clean"], progress=False)
    assert scan.notes == [
        "dev-clean has 3 recordings here; LibriSpeech publishes 2703: a subset, or "
        "not fully unpacked"
    ]


def test_a_file_is_replaced_only_when_complete(tmp_path):
    (tmp_path / "text").write_text("old\n")
    with pytest.raises(ZeroDivisionError):
        with written_whole(tmp_path / "text") as temporary:
            temporary.write_text("new\n")
            assert (tmp_path / "text").read_text() == "old\n"
            1 / 0
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("text", "old\n")]


def test_interrupted_writing_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    utterance = Utterance("a-b-1", "/x.flac", "X", "a-b", 3)
    other = Utterance("a-b-2", "/y.flac", "Y", "a-b", 3)

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kaldi, "write_lines", die)
        with pytest.raises(KeyboardInterrupt):
            write_data_dir(tmp_path / "new", [utterance])
    assert list(tmp_path.iterdir()) == []

    write_data_dir(tmp_path / "old", [utterance], [])
    (tmp_path / "old" / "mine").write_text("kept")
    real, moved = os.replace, []

    def die_later(source, target):
        if Path(target).parent == tmp_path / "old" and len(moved) == 2:
            raise KeyboardInterrupt
        if Path(target).parent == tmp_path / "old":
            moved.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die_later)
        with pytest.raises(KeyboardInterrupt):
            write_data_dir(tmp_path / "old", [other], [])
    assert not (tmp_path / "old" / "wav.scp").exists()
    write_data_dir(tmp_path / "old", [other], [])
    assert list(read_scp(tmp_path / "old" / "wav.scp")) == ["a-b-2"]
    assert (tmp_path / "old" / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    "content, pattern",
    [
        (b"a X\nb\n", ":2: nothing after the id 'b'"),
        (b"a X\nb  \n", ":2: nothing after the id 'b'"),
        (b"a X\n\nb Y\n", ":2: blank line"),
        (b"a X\n b Y\n", ":2: the line begins with white space"),
        (b"a X\nb\xc2\xa0c Y\n", r":2: the id 'b\\xa0c' has white space"),
        ("a X\nb\u3000Y\n".encode(), r":2: the id 'b\\u3000Y' has white space"),
        (b"a X\nb Y\na Z\n", ":3: the id a occurs twice .first on line 1"),
        (b"a X\nb \xe9\n", ":2: not UTF-8"),
        (b"a X\nb \0\0\n", ":2: zero byte"),
        (b"", "the file is empty"),
    ],
)
def test_malformed_lines_are_refused_by_name(tmp_path, content, pattern):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(UserError, match=pattern) as error:
        read_text(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"a X Y\r\nb Z\r\n",
        b"a\tX Y\nb\tZ\n",
        b"a \tX Y\t\nb Z",
        b"\xef\xbb\xbfa X Y\nb Z\n",
        b"a X\tY\nb Z\n\n\r\n",
        b"a X Y\rb Z\r",
    ],
)
def test_lines_as_editors_save_them(tmp_path, content):
    (tmp_path / "text").write_bytes(content)
    assert read_text(tmp_path / "text") == {"a": "X Y", "b": "Z"}


def test_read_scp_keeps_blanks_and_unicode_and_allows_empty_when_told(tmp_path):
    path = tmp_path / "wav.scp"
    path.write_text("b /my music/x y.flac\na Ünïcode\u2028x\u00a0y\nc \nd", "utf-8")
    assert read_scp(path, allow_empty=True) == {
        "b": "/my music/x y.flac",
        "a": "Ünïcode\u2028x\u00a0y",
        "c": "",
        "d": "",
    }
    with pytest.raises(UserError, match="no such file"):
        read_scp(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        read_scp(tmp_path)


def test_what_does_not_fit_on_a_line_is_not_written(tmp_path):
    for bad in (
        Utterance("a b", "/x", "X", "s"),
        Utterance("a", "/x\ny", "X", "s"),
    ):
        with pytest.raises(UserError, match="has"):
            write_data_dir(tmp_path / "d", [bad])
    with pytest.raises(UserError, match="twice"):
        write_data_dir(tmp_path / "d", [Utterance("a", "/x", "X", "s")] * 2)
    with pytest.raises(UserError, match="no utterance"):
        write_data_dir(tmp_path / "d", [])
    assert list(tmp_path.iterdir()) == []
    write_data_dir(
        tmp_path / "d",
        [Utterance("a", "/x", "X", "s")],
        [Excluded("b", "/tab\tand\nline", "kind", "why")],
    )
    line = (tmp_path / "d" / "excluded.txt").read_text().splitlines()[1]
    assert line == f"b\t/tab and line\tkind: why\t{librispeech.LEFT_OUT}"


@pytest.mark.skipif(not os.environ.get("LIBRISPEECH"), reason="LIBRISPEECH is not set")
def test_real_speech():
    root, parts = find_librispeech(os.environ["LIBRISPEECH"])
    if "test-clean" not in parts:
        pytest.skip(f"no test-clean in {root}")
    scan = scan_librispeech(root, ["test-clean"], nj=2, progress=False)
    assert len(scan.utterances) == 2620 and not scan.excluded and not scan.notes
    assert sum(len(u.text.split()) for u in scan.utterances) == 52576
    assert sum(u.samples for u in scan.utterances) / 16000 / 3600 == pytest.approx(
        5.40, abs=0.01
    )
