"""File names that are not UTF-8, and text files in Latin-1, in every command."""

import json
import os
import re

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin import align, join_texts, make_token_list, score, score_times
from espnet_adastride.config import read_config
from espnet_adastride.corpora.clips import find_clips, rotating_split
from espnet_adastride.corpora.espnet_clips import fit_recording
from espnet_adastride.corpora.kaldi import read_scp
from espnet_adastride.corpora.unlabelled import (
    find_recordings,
    prepare_recordings,
    read_set,
)
from espnet_adastride.errors import UserError, named
from espnet_adastride.experiments.definition import read_experiment
from espnet_adastride.files import shown
from espnet_adastride.timing.ctc import Timed
from espnet_adastride.timing.transcripts import (
    FORMATS,
    ctm_lines,
    join_segments,
    read_ctm,
    read_textgrid,
)

RATE = 8000
NOISE = np.random.default_rng(0).integers(-3000, 3000, RATE).astype("int16")
ODD = b"caf\xe9"


def odd_folder(folder):
    """Write caf\\xe9.wav (not UTF-8) beside recordings with usual names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ODD, "café".encode(), b"one", b"two"):
        soundfile.write(os.fsencode(folder) + b"/" + name + b".wav", NOISE, RATE)
    return folder


def test_a_transcript_that_is_too_long_for_a_file_name(tmp_path):
    """120 characters of Chinese are 360 bytes; a name may have 255."""
    text = "\u4eca\u5929\u5929\u6c14\u5f88\u597d" * 20
    (tmp_path / "short").write_text(f"{text}\n A\n", encoding="utf-8")
    words = ["--model", "x", "--output_dir", "o", "--audio", "a.wav", "--text"]
    for given, found in ((text, text), (str(tmp_path / "short"), f"{text} A")):
        args = align.get_parser().parse_args([*words, given])
        assert align.read_jobs(args) == {"a": ("a.wav", found)}


# ------------------------------------------------------------------ file names
def test_a_name_is_printed_in_one_line():
    odd = os.fsdecode(b"a\n\r\t\x1b[31m " + ODD) + "\u2028\U0001f600\u200d"
    told = "a\\n\\r\\t\\x1b[31m caf\\xe9\\u2028\U0001f600\u200d"
    assert (
        shown(odd) == told and named(f"{odd}: no such file") == f"{told}: no such file"
    )


def test_vqvae_reads_it_like_any_other(tmp_path):
    folder = odd_folder(tmp_path / "in")
    assert [r.id for r in find_recordings(folder)] == [
        "caf\\xe9",
        "café",
        "one",
        "two",
    ]
    prepare_recordings(folder, tmp_path / "out", RATE)
    sets = [read_set(tmp_path / "out" / part) for part in ("train", "valid", "test")]
    found = {r.id: r for part in sets for r in part}
    assert set(found) == {"caf\\xe9", "café", "one", "two"}
    for recording in found.values():
        wave, rate = soundfile.read(recording.path, dtype="int16")
        assert rate == RATE and np.array_equal(wave, NOISE)
    # the others are used where they are
    assert found["café"].path == str(folder / "café.wav")
    assert found["caf\\xe9"].group == "file caf\\xe9"


@pytest.mark.parametrize("layout", ["table", "fsdd"])
def test_classification_reads_it_like_any_other(tmp_path, layout):
    if layout == "fsdd":
        names = [b"0_caf\xe9_1", b"1_ann_0", b"2_ann_0"]
        for name in names:
            soundfile.write(os.fsencode(tmp_path) + b"/" + name + b".wav", NOISE, RATE)
        ids = ["0/0_caf\\xe9_1", "1/1_ann_0", "2/2_ann_0"]
    else:
        odd_folder(tmp_path)
        rows = "file,label\none.wav,a\ntwo.wav,b\n"
        (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
        ids = ["a/one", "b/two"]
    clips = find_clips(tmp_path, layout)
    assert [clip.id for clip in clips] == ids
    assert all(rotating_split(clip.group, 0) for clip in clips)
    json.dumps([clip.id for clip in clips], ensure_ascii=False).encode()
    path, samples = fit_recording(clips[0], RATE, tmp_path / "waves")
    wave, _ = soundfile.read(os.fsencode(path), dtype="int16")
    assert samples == RATE and np.array_equal(wave, NOISE)
    str(path).encode()  # wav.scp takes it


def test_every_format_of_a_transcript_takes_the_name():
    name = os.fsdecode(b"talks/" + ODD + b".wav")
    transcript = join_segments(name, 1.0, [])
    assert transcript.name == "talks/caf\\xe9.wav"
    transcript = transcript._replace(words=[Timed("A", 0.1, 0.2, 1.0)])
    for kind, write in FORMATS.items():
        write(transcript).encode("utf-8")
    assert r"caf\xe9.wav 1 0.100 0.100 A" in ctm_lines(name, transcript.words)[0]


def test_align_and_plot_name_it_escaped(tmp_path):
    from espnet_adastride.bin import align, plot

    path = os.fsdecode(os.fsencode(odd_folder(tmp_path)) + b"/" + ODD + b".wav")
    words = ["--model", "m", "--audio", path, "--text", "A B", "--output_dir", "o"]
    jobs = align.read_jobs(align.get_parser().parse_args(words))
    assert jobs == {"caf\\xe9": (path, "A B")}
    words = ["utterance", "--model", "m", "--audio", path, "--output", "x.svg"]
    recording = plot.choose(plot.get_parser().parse_args(words))
    assert recording.id == "caf\\xe9" and recording.audio == path


# ------------------------------------------------------------------ text files
LATIN = b"u1 A\nu2 caf\xe9\n"


def refusal(call, *args, error=UserError):
    with pytest.raises(error) as stop:
        call(*args)
    line = str(stop.value)
    assert "\n" not in line
    return line


def test_latin1_transcripts_of_the_vqvae(tmp_path):
    folder = odd_folder(tmp_path / "in")
    (folder / "trans.txt").write_bytes(b"one A\ntwo caf\xe9\n")
    line = refusal(find_recordings, folder, error=UserError)
    assert line.startswith(f"{folder}/trans.txt:2: not UTF-8; convert the file")
    (folder / "trans.txt").write_bytes(b"\xef\xbb\xbfone\tHELLO\r\ntwo A  B\r\n\r\n")
    groups = {r.id: r.group for r in find_recordings(folder)}
    assert groups["one"] == "text hello" and groups["two"] == "text a b"
    (folder / "trans.txt").write_text("one A\ntwo\n")
    assert "line 2: write NAME TEXT" in refusal(
        find_recordings, folder, error=UserError
    )


def test_latin1_tables_and_configurations(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a: 1\nb: 2\nc: caf\xe9\n")
    for read, error in (
        (read_scp, UserError),
        (read_ctm, UserError),
        (read_textgrid, UserError),
        (read_config, UserError),
        (read_experiment, UserError),
    ):
        line = refusal(read, path, error=error)
        assert line.startswith(f"{path}:3: not UTF-8; convert the file"), read
    (tmp_path / "labels.csv").write_bytes(b"file,label\none.wav,caf\xe9\n")
    line = refusal(find_clips, tmp_path, "table", error=UserError)
    assert line.startswith(f"{tmp_path}/labels.csv:2: not UTF-8")


def test_latin1_files_of_a_model(tmp_path):
    from espnet_adastride.plugin.model_files import read_inference_config, read_options

    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: 1\nc: caf\xe9\n")
    line = refusal(read_options, path, [], error=UserError)
    assert line.startswith(f"{path}:2: not UTF-8")
    line = refusal(read_inference_config, path, error=UserError)
    assert line.startswith(f"{path}:2: not UTF-8")


def test_a_command_prints_such_a_name(tmp_path):
    name = os.path.join(os.fsencode(tmp_path), ODD + b".ctm")
    with pytest.raises(SystemExit) as stop:
        score_times.main(["--ctm", os.fsdecode(name), "--ref", os.fsdecode(name)])
    told = f"error: {tmp_path}/caf\\xe9.ctm: no such file; check the path"
    assert stop.value.code == told


def test_latin1_texts_of_commands(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("u1 A\nu2 B\n")
    bad.write_bytes(LATIN)
    times = tmp_path / "ctm"
    times.write_bytes(b"u1 1 0 1 A\nu2 1 0 1 caf\xe9\n")
    from espnet_adastride.bin import align

    words = ["--model", "m", "--output_dir", "o", "--audio", "x.wav", "--text", bad]
    parsed = align.get_parser().parse_args([str(word) for word in words])
    assert f"{bad}:2: not UTF-8" in refusal(align.read_jobs, parsed)
    for command, words, path in (
        (make_token_list, ["--text", bad, "--output", tmp_path / "t"], bad),
        (join_texts, ["--output", tmp_path / "lm", good, bad], bad),
        (score, ["--ref", good, "--hyp", bad, "--output", tmp_path / "s"], bad),
        (score_times, ["--ctm", good, "--ref", times], None),
        (score_times, ["--ctm", times, "--ref", times], times),
    ):
        with pytest.raises(SystemExit) as stop:
            command.main([str(word) for word in words])
        line = str(stop.value)
        assert "\n" not in line
        if path is not None:
            assert re.search(rf"{re.escape(str(path))}:2: not UTF-8", line), line


def test_texts_of_a_language_model_are_joined(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffu1\tTHE CAT\r\nu2\r\n".encode())
    (tmp_path / "b").write_text("u1 caf\u00e9\n\n")
    output = tmp_path / "out" / "lm.txt"
    join_texts.main(
        [*map(str, (tmp_path / "a", tmp_path / "b")), "--output", f"{output}"]
    )
    assert output.read_text() == "u1 THE CAT\nu1 café\n"
    (tmp_path / "a").write_text("u1\n")
    with pytest.raises(SystemExit, match="no line of the form 'id text' in it"):
        join_texts.main([str(tmp_path / "a"), "--output", str(output)])
