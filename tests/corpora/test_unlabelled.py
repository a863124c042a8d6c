"""Any folder of recordings as three sets, no text in two of them."""

import numpy as np
import pytest
import soundfile

from espnet_adastride.corpora.unlabelled import (
    PARTS,
    find_recordings,
    prepare_recordings,
    read_set,
    split_groups,
)
from espnet_adastride.errors import AudioError, UserError


def noise(path, seconds=0.5, rate=8000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (round(seconds * rate), channels)
    soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=shape), rate)


@pytest.fixture
def corpus(tmp_path):
    """Six readings of three texts."""
    folder = tmp_path / "my recordings"
    lines = []
    for index in range(6):
        noise(folder / "flac" / f"r{index}.flac")
        lines.append(f"r{index} Text  number {index % 3}\n")
    (folder / "trans.txt").write_text("".join(lines))
    return folder


def sets(output):
    return {part: read_set(output / part) for part in PARTS}


def test_texts_stay_together(corpus, tmp_path):
    told = prepare_recordings(corpus, tmp_path / "data", 8000)
    assert "train: 2 recordings" in told and "3 texts or files" in told
    found = sets(tmp_path / "data")
    assert sorted(len(own) for own in found.values()) == [2, 2, 2]
    texts = [{r.group for r in own} for own in found.values()]
    assert all(len(own) == 1 for own in texts) and len(set.union(*texts)) == 3
    assert {r.id for own in found.values() for r in own} == {
        f"flac_r{i}" for i in range(6)
    }
    # read in place; a second call changes nothing
    assert all("my recordings" in r.path for r in found["train"])
    assert prepare_recordings(corpus, tmp_path / "data", 8000) == told
    noise(corpus / "flac" / "r9.flac")
    with pytest.raises(UserError, match="prepared from other recordings"):
        prepare_recordings(corpus, tmp_path / "data", 8000)


def test_an_experiment_in_the_folder_of_the_recordings(tmp_path):
    """Neither the converted recordings nor the copies to listen to are its own."""
    for number in range(4):
        noise(tmp_path / f"{number}.wav", channels=2)
    output = tmp_path / "exp" / "data"
    told = prepare_recordings(tmp_path, output, 8000)
    assert len(list((output / "audio").iterdir())) == 4
    noise(tmp_path / "exp" / "avg_pool_8x_seed0" / "listen" / "0.flac")
    assert prepare_recordings(tmp_path, output, 8000) == told
    own = [str(number) for number in range(4)]
    assert [one.id for one in find_recordings(tmp_path, output)] == own


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    """Above all not that of the recordings, if it is called data."""
    for number in range(4):
        noise(tmp_path / "data" / f"{number}.wav")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="data was not made by .*; give another --exp"):
        prepare_recordings(tmp_path / "data", tmp_path / "data", 8000)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "exp" / "data").mkdir(parents=True)  # an empty one may be
    told = prepare_recordings(tmp_path / "data", tmp_path / "exp" / "data", 8000)
    assert told.startswith("train: 2 recordings")


def test_moved_recordings_are_found_again(corpus, tmp_path):
    told = prepare_recordings(corpus, tmp_path / "data", 8000)
    before = sets(tmp_path / "data")
    moved = corpus.rename(tmp_path / "elsewhere")
    assert prepare_recordings(moved, tmp_path / "data", 8000) == told
    after = sets(tmp_path / "data")
    for part, own in before.items():
        assert [(r.id, r.group) for r in own] == [(r.id, r.group) for r in after[part]]
        assert all(str(moved) in r.path for r in after[part])


def test_a_recording_that_was_changed_at_the_same_size_is_named(corpus, tmp_path):
    path = corpus / "r.wav"
    noise(path)
    told = prepare_recordings(corpus, tmp_path / "exp" / "data", 8000)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"ab")
    with pytest.raises(UserError, match=f"^{path} was changed after .*another --exp"):
        prepare_recordings(corpus, tmp_path / "exp" / "data", 8000)
    path.write_bytes(content)  # at another time
    assert prepare_recordings(corpus, tmp_path / "exp" / "data", 8000) == told
    # folders of earlier versions have no record
    (tmp_path / "exp" / "data" / "audio.json").unlink()
    assert prepare_recordings(corpus, tmp_path / "exp" / "data", 8000) == told


def test_texts_of_other_names_are_refused(corpus, tmp_path):
    """Silently left out, they would put readings of one text into several sets."""
    texts = corpus / "trans.txt"
    lines = texts.read_text().splitlines()
    texts.write_text("\n".join(lines[:4]) + "\n")
    told = prepare_recordings(corpus, tmp_path / "data", 8000)
    assert told.endswith("; 2 of the files have no line in trans.txt")
    texts.write_text("\n".join([*lines, "r0 Another"]) + "\n")
    with pytest.raises(UserError, match="trans.txt, line 7: r0 has another text above"):
        find_recordings(corpus)
    texts.write_text("\n".join(x.replace(" ", ".flac ", 1) for x in lines) + "\n")
    with pytest.raises(UserError, match="none of its names, such as r0.flac, .* r0$"):
        find_recordings(corpus)


def test_any_format_rate_and_length(tmp_path):
    folder = tmp_path / "x"
    noise(folder / "a b.wav", 40.0)
    noise(folder / "deep" / "stereo.ogg", 1.0, 16000, 2)
    noise(folder / "mono.flac")
    noise(folder / "blip.wav", 0.1)
    (folder / "notes.txt").write_text("no audio\n")
    assert len(find_recordings(folder)) == 4
    seed = 0
    while True:  # the file that is too short must not be all of a part
        try:
            told = prepare_recordings(folder, tmp_path / f"data{seed}", 8000)
            break
        except UserError as error:
            assert "nothing of 0.25 s or more is left" in str(error)
            seed += 1
            noise(folder / f"more{seed}.wav")
    assert "1 below 0.25 s left out" in told
    own = [r for part in sets(tmp_path / f"data{seed}").values() for r in part]
    cut = [r for r in own if r.id.startswith("a_b_")]
    assert len(cut) >= 3 and len({r.group for r in cut}) == 1
    assert sum(soundfile.info(r.path).duration for r in cut) == pytest.approx(40.0)
    for recording in own:
        info = soundfile.info(recording.path)
        assert (info.samplerate, info.channels) == (8000, 1) and info.duration <= 15.0


def test_parts_of_a_recording_with_the_name_of_another(corpus, tmp_path):
    noise(corpus / "long.flac", seconds=20)
    noise(corpus / "long_0001.flac")
    with pytest.raises(UserError, match="a part would .* long_0001: rename one"):
        prepare_recordings(corpus, tmp_path / "data", 8000)
    assert not (tmp_path / "data").exists()


def test_parts_by_hash():
    parts = split_groups(f"text {i}" for i in range(100))
    assert list(parts.values()).count("test") == 10
    assert list(parts.values()).count("valid") == 5
    assert parts == split_groups(f"text {99 - i}" for i in range(100))


def test_bad_input_is_one_line(tmp_path, corpus):
    with pytest.raises(UserError, match="no such folder"):
        find_recordings(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no recordings"):
        find_recordings(tmp_path / "empty")
    with pytest.raises(UserError, match="at least three"):
        split_groups(["a", "b"])
    (corpus / "flac" / "r1.flac").write_bytes(b"no audio")
    with pytest.raises(AudioError, match="r1.flac: unreadable audio"):
        prepare_recordings(corpus, tmp_path / "data", 8000)
    assert not (tmp_path / "data").exists()
    noise(corpus / "flac" / "r2.wav")
    with pytest.raises(UserError, match="would have one name"):
        find_recordings(corpus)
