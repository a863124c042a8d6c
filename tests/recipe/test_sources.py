"""What a folder of transcripts remembers of the recordings that they are of."""

from pathlib import Path

import pytest

from espnet_adastride.corpora.recordings import find_media
from espnet_adastride.recipe.sources import RECORDS_NAME, Sources, plan


def test_what_was_done_remembers_its_source(tmp_path):
    first, other = tmp_path / "p0.ogg", tmp_path / "p0.mp3"
    first.write_bytes(b"one sound")
    other.write_bytes(b"two sound")
    Sources(tmp_path / "out").add("p0", first)
    known = Sources(tmp_path / "out")
    assert known.relation("p0", first) == "same"
    assert known.relation("p0", other) == "other"
    assert known.relation("p1", first) == ""
    # moved, it is the same; changed in its place, it is not
    (tmp_path / "moved").mkdir()
    first = first.rename(tmp_path / "moved" / "p0.ogg")
    assert known.relation("p0", first) == "same"
    known.add("p0", first)
    first.write_bytes(b"new sound")
    assert known.relation("p0", first) == "changed"
    # a line that was cut off is passed over, and stays a line of its own
    path = tmp_path / "out" / RECORDS_NAME
    path.write_text(path.read_text() + '{"name": "p')
    Sources(tmp_path / "out").add("p3", other)
    assert Sources(tmp_path / "out").relation("p3", other) == "same"
    assert Sources(tmp_path / "out").relation("p0", first) == "changed"


def test_outputs_have_their_record_before_they_are_written(tmp_path):
    """An interruption between the two leaves nothing of an unknown recording."""
    first, other = tmp_path / "p0.ogg", tmp_path / "p0.mp3"
    first.write_bytes(b"one sound")
    other.write_bytes(b"two sound")
    out = tmp_path / "out"
    text, times = out / "talks" / "p0.txt", out / "talks" / "p0.srt"
    known = Sources(out)
    known.take_over("talks/p0", first, [text])
    assert Sources(out).relation("talks/p0", first) == "same"
    (out / "talks").mkdir()
    text.write_text("one")
    times.write_text("one")
    # again: what is there stays until it is replaced
    known.take_over("talks/p0", first, [text])
    assert text.read_text() == times.read_text() == "one"
    # of another recording, nothing stays that would count as the new one's
    known.take_over("talks/p0", other, [text])
    assert not text.exists() and not times.exists()
    assert Sources(out).relation("talks/p0", other) == "same"
    # what nobody knows of stays, unless it is to be written
    (out / "a.txt").write_text("a reference")
    (out / "a.json").write_text("{}")
    known.take_over("a", first, [out / "a.txt"])
    assert not (out / "a.txt").exists() and (out / "a.json").exists()


@pytest.mark.parametrize("folder", ["out", "."])
def test_a_name_that_is_too_long_with_its_suffix_stops_no_other(tmp_path, folder):
    """``.au`` is shorter than ``.srt``: 255 bytes, the most a disk accepts, and 256."""
    names = ["a.au", "b" * 251 + ".au", "é" * 126 + ".au", "z.au"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    sources = find_media([str(tmp_path)]).sources
    jobs = plan(sources, tmp_path / folder, ["txt", "srt"])
    long = f"{tmp_path}/{names[2]}: with the suffix .srt, its name is too long for the"
    told = {Path(job.source.path).name: job.obstacle for job in jobs}
    assert told.pop(names[2]) == f"{long} disk; give it a shorter one"
    assert set(told.values()) == {""} and not any(job.done for job in jobs)
