"""What a folder of transcripts remembers of the recordings that they are of."""

import json
import os
from pathlib import Path

import pytest

from espnet_adastride.corpora.recordings import find_media
from espnet_adastride.recipe.sources import RECORDS_NAME, Sources, plan
from espnet_adastride.recipe.stamps import model_fingerprint


def test_what_was_done_remembers_its_source(tmp_path):
    first, other = tmp_path / "p0.ogg", tmp_path / "p0.mp3"
    first.write_bytes(b"one sound")
    other.write_bytes(b"two sound")
    Sources(tmp_path / "out", "m").add("p0", first)
    known = Sources(tmp_path / "out", "m")
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
    Sources(tmp_path / "out", "m").add("p3", other)
    assert Sources(tmp_path / "out", "m").relation("p3", other) == "same"
    assert Sources(tmp_path / "out", "m").relation("p0", first) == "changed"


def test_outputs_have_their_record_before_they_are_written(tmp_path):
    """An interruption between the two leaves nothing of an unknown recording."""
    first, other = tmp_path / "p0.ogg", tmp_path / "p0.mp3"
    first.write_bytes(b"one sound")
    other.write_bytes(b"two sound")
    out = tmp_path / "out"
    text, times = out / "talks" / "p0.txt", out / "talks" / "p0.srt"
    known = Sources(out, "m")
    known.take_over("talks/p0", first, [text])
    assert Sources(out, "m").relation("talks/p0", first) == "same"
    (out / "talks").mkdir()
    text.write_text("one")
    times.write_text("one")
    # again: what is there stays until it is replaced
    known.take_over("talks/p0", first, [text])
    assert text.read_text() == times.read_text() == "one"
    # of another recording, nothing stays that would count as the new one's
    known.take_over("talks/p0", other, [text])
    assert not text.exists() and not times.exists()
    assert Sources(out, "m").relation("talks/p0", other) == "same"
    # what nobody knows of stays, unless it is to be written
    (out / "a.txt").write_text("a reference")
    (out / "a.json").write_text("{}")
    known.take_over("a", first, [out / "a.txt"])
    assert not (out / "a.txt").exists() and (out / "a.json").exists()


def test_another_model_s_text_is_not_done(tmp_path):
    recording, out = tmp_path / "p0.ogg", tmp_path / "out"
    recording.write_bytes(b"one sound")
    Sources(out, "one").take_over("p0", recording, [out / "p0.txt"])
    (out / "p0.txt").write_text("one")
    given = find_media([str(recording)]).sources

    def state(made_from, *formats, overwrite=False):
        (job,) = plan(given, Sources(out, made_from), formats, overwrite)
        assert not job.obstacle
        return job.done, job.outdated

    assert state("one", "txt") == (True, False)
    assert state("two", "txt") == (False, True)
    assert state("two", "srt") == (False, True)  # the text of both would be mixed
    assert state("one", "txt", "srt") == (False, False)
    assert state("two", "txt", overwrite=True) == (False, False)
    # taken over, the other model's files of any format are gone
    known = Sources(out, "two")
    known.take_over("p0", recording, [out / "p0.srt"])
    assert not (out / "p0.txt").exists()
    assert Sources(out, "one").relation("p0", recording) == "outdated"
    recording.write_bytes(b"new sound")
    assert Sources(out, "one").relation("p0", recording) == "changed"
    # a record of an earlier version names no model
    known.add("p0", recording)
    record = json.loads((out / RECORDS_NAME).read_text().splitlines()[-1])
    assert record.pop("made_from") == "two"
    (out / RECORDS_NAME).write_text(json.dumps(record) + "\n")
    assert Sources(out, "one").relation("p0", recording) == "same"


def test_a_model_is_its_files_and_options(tmp_path, monkeypatch):
    exp, archive = tmp_path / "exp", tmp_path / "model.zip"
    exp.mkdir()
    archive.write_bytes(b"zip")
    for name in ("config.yaml", "valid.acc.ave.pth", "train.log"):
        (exp / name).write_text("1")
    options = {"stride": None, "inference_config": str(tmp_path / "beam.yaml")}
    made = [model_fingerprint(exp, options), model_fingerprint(archive, options)]
    monkeypatch.chdir(tmp_path)
    assert model_fingerprint("./exp/", options) == made[0]
    (exp / "train.log").write_text("more")
    assert model_fingerprint(exp, options) == made[0]
    for path in (exp / "valid.acc.ave.pth", exp / "config.yaml"):
        os.utime(path, (1, 1))
        made.append(model_fingerprint(exp, options))
    archive.write_bytes(b"another")
    made.append(model_fingerprint(archive, options))
    made.append(model_fingerprint(archive, {**options, "stride": 6.0}))
    for content in ("beam_size: 1", "beam_size: 10"):
        (tmp_path / "beam.yaml").write_text(content)
        made.append(model_fingerprint(archive, options))
    assert len(set(made)) == len(made) == 8


@pytest.mark.parametrize("folder", ["out", "."])
def test_a_name_that_is_too_long_with_its_suffix_stops_no_other(tmp_path, folder):
    """``.au`` is shorter than ``.srt``: 255 bytes, the most a disk accepts, and 256."""
    names = ["a.au", "b" * 251 + ".au", "é" * 126 + ".au", "z.au"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    sources = find_media([str(tmp_path)]).sources
    jobs = plan(sources, Sources(tmp_path / folder, "model"), ["txt", "srt"])
    long = f"{tmp_path}/{names[2]}: with the suffix .srt, its name is too long for the"
    told = {Path(job.source.path).name: job.obstacle for job in jobs}
    assert told.pop(names[2]) == f"{long} disk; give it a shorter one"
    assert set(told.values()) == {""} and not any(job.done for job in jobs)
