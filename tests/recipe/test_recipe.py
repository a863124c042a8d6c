"""The parts of the recipe driver: data folders, tokens, stamps, logs, jobs, locks."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

import media
from espnet_adastride.bin import (
    check_dump,
    filter_data,
    format_data,
    make_token_list,
    run_jobs,
    score,
    split_scp,
    stage_stamp,
)
from espnet_adastride.config import read_config, training_options
from espnet_adastride.corpora import audio, datadir
from espnet_adastride.corpora.tokens import in_our_words
from espnet_adastride.corpora.upstream_record import UpstreamRecord
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation import logs
from espnet_adastride.files import alone, lock
from espnet_adastride.networks.saving import atomic
from espnet_adastride.options import parse_rate
from espnet_adastride.progress import progress_bar
from espnet_adastride.recipe import decoding, stamps, training
from espnet_adastride.recipe.feature_statistics import (
    add_vocabulary_size,
    check_features,
    check_finite,
    statistics_options,
)
from espnet_adastride.recipe.jobs import Interrupted, Job, numbered, rotate
from espnet_adastride.recipe.jobs import run_jobs as jobs_at_once
from espnet_adastride.recipe.stamps import Stamp, expand, fingerprint


# ------------------------------------------------------------------ data folders
def make_set(folder, waves, texts=None, speaker="a$b;`c`"):
    """Write audio {utterance: (samples, Hz)} and the Kaldi-style tables."""
    folder.mkdir(parents=True)
    for key, (wave, rate) in waves.items():
        soundfile.write(folder / f"{key}.flac", wave, rate)
    tables = {
        "wav.scp": {k: str(folder / f"{k}.flac") for k in waves},
        "text": {k: (texts or {}).get(k, "SOME WORDS") for k in waves},
        "utt2spk": {k: speaker for k in waves},
    }
    for name, table in tables.items():
        datadir.write_table(folder / name, table)
    return folder


def sine(hertz, seconds, rate):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_format_uses_audio_where_it_lies_and_resamples_the_rest(tmp_path, capsys):
    waves = {
        "u1": (sine(440, 0.5, 16000), 16000),
        "u2": (sine(440, 0.5, 22050), 22050),
    }
    source = make_set(tmp_path / "my data", waves)
    dump = tmp_path / "my dump"
    format_data.main(["--set", str(source), str(dump), "--fs", "16k"])
    assert "1 resampled from [22050] Hz to 16000 Hz" in capsys.readouterr().out

    table = datadir.read_table(dump / "wav.scp")
    assert table["u1"] == str(source / "u1.flac")
    wave, rate = soundfile.read(table["u2"])
    assert rate == 16000 and len(wave) == 8000
    peak = np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave)
    assert peak == pytest.approx(440)
    assert np.abs(wave - sine(440, 0.5, 16000))[200:-200].max() < 2e-3
    assert datadir.read_table(dump / "utt2num_samples") == {"u1": "8000", "u2": "8000"}
    assert (dump / "feats_type").read_text() == "raw\n"
    assert (dump / "spk2utt").read_text() == "a$b;`c` u1 u2\n"


def test_format_refuses_unusable_audio_and_lists_all_of_it(tmp_path):
    source = make_set(tmp_path / "data", {"u1": (sine(440, 0.1, 16000), 16000)})
    (source / "broken.flac").write_bytes(b"fLaC, or not")
    stereo = np.zeros((100, 2))
    soundfile.write(source / "stereo.flac", stereo, 16000)
    for name in datadir.TABLES:
        with (source / name).open("a") as file:
            for key in ("broken", "stereo"):
                file.write(f"{key} {source}/{key}.flac\n")
    with pytest.raises(SystemExit, match="2 of 3 audio files cannot be used"):
        format_data.main(["--set", str(source), str(tmp_path / "dump")])
    listed = datadir.read_table(f"{tmp_path}/dump.unusable_audio")
    assert set(listed) == {"broken", "stereo"} and "2 channels" in listed["stereo"]
    assert not (tmp_path / "dump").exists()
    for name in datadir.TABLES:
        lines = (source / name).read_text().splitlines(keepends=True)
        (source / name).write_text(lines[0])
    format_data.main(["--set", str(source), str(tmp_path / "dump")])
    assert not (tmp_path / "dump.unusable_audio").exists()  # nothing is wrong now


def test_format_names_samples_that_are_not_numbers(tmp_path):
    good = sine(440, 0.5, 16000)
    bad = good.copy()
    bad[100:110] = np.nan
    source = make_set(tmp_path / "data", {"u1": (good, 16000)})
    files = {"nan": bad, "scaled": good * 32767, "none": good[:0]}
    for key, wave in files.items():
        soundfile.write(source / f"{key}.wav", wave, 16000, subtype="FLOAT")
    cut = (source / "u1.flac").read_bytes()
    (source / "cut.wav").write_bytes(cut[: len(cut) // 2])
    for name in datadir.TABLES:
        with (source / name).open("a") as file:
            for key in (*files, "cut"):
                file.write(f"{key} {source}/{key}.wav\n")
    with pytest.raises(SystemExit, match="4 of 5 audio files cannot be used"):
        format_data.main(["--set", str(source), str(tmp_path / "dump")])
    listed = datadir.read_table(f"{tmp_path}/dump.unusable_audio")
    assert "10 samples are not numbers" in listed["nan"]
    assert "scaled as 16-bit integers; divide them by 32768" in listed["scaled"]
    assert "no samples" in listed["none"]
    assert "get the file again" in listed["cut"] and "cut.wav" in listed["cut"]


def test_format_converts_what_espnet_cannot_read(tmp_path, capsys):
    wave = media.speech()
    source = make_set(tmp_path / "data", {"u1": (wave, 16000)})
    media.encode(source / "u2.m4a", "aac", wave)
    joined = media.sound_file(wave, 16000, format="MP3")
    (source / "u3.mp3").write_bytes(joined + joined)
    for name in datadir.TABLES:
        with (source / name).open("a") as file:
            file.write(f"u2 {source}/u2.m4a\nu3 {source}/u3.mp3\n")
    dump = tmp_path / "dump"
    format_data.main(["--set", str(source), str(dump)])
    assert "2 converted from mov, mp3" in capsys.readouterr().out
    samples = {
        k: int(n) for k, n in datadir.read_table(dump / "utt2num_samples").items()
    }
    for key, path in datadir.read_table(dump / "wav.scp").items():
        found, rate = soundfile.read(path)  # as ESPnet does
        assert rate == 16000 and len(found) == samples[key]
    assert samples["u1"] == len(wave)
    assert samples["u2"] == pytest.approx(len(wave), abs=1100)
    assert 2 * len(wave) <= samples["u3"] <= 2 * len(wave) + 4000


def test_format_reads_each_recording_once(tmp_path, monkeypatch):
    read, real = [], audio._decoded
    monkeypatch.setattr(audio, "_decoded", lambda *a: read.append(a[1]) or real(*a))
    monkeypatch.setattr(audio, "_sound_header", lambda *_: None)  # so FFmpeg decodes
    source = make_set(tmp_path / "in", {"a": (sine(440, 0.5, 16000), 16000)})
    tables = datadir.read_data_dir(source)
    wave, info = datadir.read_mono(tables["wav.scp"]["a"])
    assert info == audio.audio_info(tables["wav.scp"]["a"]) and len(wave) == 8000
    read.clear()
    monkeypatch.setattr(datadir, "_convert", lambda *_: 8000)
    datadir.format_data_dir(source, tmp_path / "dump", 16000)
    assert read == [tables["wav.scp"]["a"]]


def test_statistics_that_are_not_numbers(tmp_path):
    good = {"count": np.array(3), "sum": np.ones(4), "sum_square": np.ones(4)}
    np.savez(tmp_path / "feats_stats.npz", **good)
    check_finite(tmp_path / "feats_stats.npz")
    np.savez(tmp_path / "feats_stats.npz", **{**good, "sum": np.array([1, np.nan])})
    with pytest.raises(UserError, match="feats_stats.npz: sum of the features are n"):
        check_finite(tmp_path / "feats_stats.npz")


def test_tables_that_disagree_are_refused_by_name(tmp_path):
    source = make_set(tmp_path / "data", {"u1": (np.zeros(16), 16000)})
    with (source / "text").open("a") as file:
        file.write("u9 WORDS WITHOUT AUDIO\n")
    with pytest.raises(UserError, match="u9 is in text but not in wav.scp"):
        datadir.read_data_dir(source)
    for name in ("utt2spk", "wav.scp"):
        kept = (source / name).read_text()
        (source / name).write_text("u1\n")
        with pytest.raises(UserError, match=f"{name}:1: nothing after the id 'u1'"):
            datadir.read_data_dir(source)
        (source / name).write_text(kept)
    (source / "utt2spk").write_text("u1 ann marie\n")
    with pytest.raises(UserError, match="data/utt2spk: the speaker 'ann marie' of u1"):
        datadir.read_data_dir(source)
    (source / "text").write_text("u1 ONE\nu1 TWO\n")
    with pytest.raises(UserError, match="text:2: the id u1 occurs twice"):
        datadir.read_data_dir(source)


def test_filter_bounds_are_strict_and_what_is_left_out_is_named(tmp_path, capsys):
    seconds = {"a": 0.1, "b": 0.2, "c": 0.5, "d": 0.3, "e": 0.4}
    waves = {k: (np.zeros(int(s * 1000)), 1000) for k, s in seconds.items()}
    source = make_set(tmp_path / "data", waves, {"d": ""})
    org, dump = tmp_path / "org", tmp_path / "dump"
    format_data.main(["--set", str(source), str(org), "--fs", "1k"])
    bounds = ["--min_wav_duration", "0.1", "--max_wav_duration", "0.5", "--fs", "1k"]
    filter_data.main(["--set", str(org), str(dump), *bounds])
    assert list(datadir.read_table(dump / "text")) == ["b", "e"]
    assert datadir.read_table(dump / "removed.txt") == {
        "a": "too short 0.100 s",
        "c": "too long 0.500 s",
        "d": "without text",
    }
    assert "1 too short, 1 too long, 1 without text" in capsys.readouterr().out

    bounds[3] = "0.2"
    with pytest.raises(SystemExit, match="no utterance is left"):
        filter_data.main(["--set", str(org), str(tmp_path / "none"), *bounds])


@pytest.mark.parametrize(
    "word, hertz", [("16k", 16000), ("22.05k", 22050), ("8000", 8000)]
)
def test_parse_rate(word, hertz):
    assert parse_rate(word) == hertz


@pytest.mark.parametrize(
    "word",
    ["fast", "-1", "0", "1.5", "16kk", "1/0", "99", "1000001", "1e9999999", "9" * 5000],
)
def test_parse_rate_refuses(word):
    with pytest.raises(UserError, match="sampling rate from 100 to 1000000"):
        parse_rate(word)


@given(st.integers(0, 60), st.integers(1, 70))
def test_split_keys_loses_nothing_and_is_even(count, jobs):
    keys = [str(i) for i in range(count)]
    parts = datadir.split_keys(keys, jobs)
    assert [k for part in parts for k in part] == keys
    assert len(parts) == max(1, min(jobs, count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_split_scp_uses_the_smallest_set(tmp_path, capsys):
    datadir.write_table(tmp_path / "long", {f"u{i}": "x y" for i in range(9)})
    datadir.write_table(tmp_path / "short", {"v1": "x", "v2": "y"})
    split = []
    for name in ("long", "short"):
        split += ["--split", str(tmp_path / name), str(tmp_path / f"{name}.JOB")]
    split_scp.main(["--nj", "4", *split])
    assert capsys.readouterr().out == "2\n"
    assert len(datadir.read_table(tmp_path / "long.1")) == 5
    assert datadir.read_table(tmp_path / "short.2") == {"v2": "y"}
    assert not (tmp_path / "long.3").exists()


# ------------------------------------------------------------------ tokens
SENTENCES = ["THE CAT SAT", "A CAT ATE THE HAT", "THAT HAT", "THE TEA"] * 20


def write_sentences(path, sentences=SENTENCES):
    datadir.write_table(path, {f"u{i:03}": s for i, s in enumerate(sentences)})
    return str(path)


def test_char_token_list(tmp_path):
    text = write_sentences(tmp_path / "text", ["AB B", "B C"])
    make_token_list.main(
        ["--text", text, "--output", str(tmp_path / "char"), "--token_type", "char"]
    )
    lines = (tmp_path / "char" / "tokens.txt").read_text().splitlines()
    assert lines == ["<blank>", "<unk>", "B", "<space>", "A", "C", "<sos/eos>"]


def test_symbols_and_cleaned_text_are_the_tokens_of_the_training(tmp_path, capsys):
    """ESPnet's preprocessor has such tokens; they became <unk>."""
    (tmp_path / "text").write_text("u1 a <noise> b\nu2 <no> b\n")
    (tmp_path / "test").write_text("u3 <noise> n\n")
    (tmp_path / "symbols").write_text("<no>\n<noise>\n\n<cough>\n")
    words = ["--text", tmp_path / "text", "--output", tmp_path / "char"]
    words += ["--token_type", "char", "--check_text", tmp_path / "test"]
    symbols = ["--nlsyms_txt", tmp_path / "symbols"]
    make_token_list.main([str(word) for word in [*words, *symbols]])
    tokens = (tmp_path / "char" / "tokens.txt").read_text().split()
    assert set(tokens[2:-1]) == {"a", "b", "<space>", "<noise>", "<no>"}
    assert "token covers: 'n' (u3); they" in capsys.readouterr().out
    make_token_list.main([str(word) for word in words])  # made again without symbols
    tokens = (tmp_path / "char" / "tokens.txt").read_text().split()
    assert "o" in tokens and "<noise>" not in tokens


def test_symbols_do_not_count_as_words(tmp_path):
    (tmp_path / "text").write_text("u1 a <noise> b\n")
    (tmp_path / "hyp").write_text("u1 <cough> a b\n")
    (tmp_path / "symbols").write_text("<noise>\n<cough>\n")
    files = f"--ref {tmp_path}/text --hyp {tmp_path}/hyp --output {tmp_path}"
    words = files.split()
    score.main([str(w) for w in [*words, "--nlsyms_txt", tmp_path / "symbols"]])
    for metric in ("wer", "cer"):
        result = (tmp_path / f"score_{metric}" / "result.txt").read_text()
        assert " 0 0 0\n" in result.split("Scores: (#C #S #D #I)")[1]


def test_bpe_token_list_has_the_size_and_covers_the_text(tmp_path):
    import sentencepiece

    text = write_sentences(tmp_path / "text")
    folder = tmp_path / "bpe"
    make_token_list.main(["--text", text, "--output", str(folder), "--nbpe", "16"])
    lines = (folder / "tokens.txt").read_text().splitlines()
    # nbpe counts <unk>, <s> and </s>; <blank>, <unk> and <sos/eos> come in their place
    assert len(lines) == 16 and len(set(lines)) == 16
    assert (lines[:2], lines[-1]) == (["<blank>", "<unk>"], "<sos/eos>")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "bpe.model"))
    for sentence in set(SENTENCES):
        pieces = model.encode(sentence, out_type=str)
        assert set(pieces) <= set(lines) and model.decode(pieces) == sentence


@pytest.mark.parametrize(
    "options, words",
    [
        (["--nbpe=5000"], r"too many pieces; give --nbpe \d+ or less$"),
        (
            ["--nbpe=5000", "--bpemode=bpe"],
            r"too many pieces; give --nbpe \d+ or less$",
        ),
        (
            ["--nbpe=3"],
            r"too few pieces .*give --nbpe \d+ or more, or a smaller --bpe_c",
        ),
        (["--bpe_char_cover=0.2"], "give a --bpe_char_cover from 0.98 to 1$"),
        (["--bpe_nlsyms=<a>,<a>"], "--bpe_nlsyms has <a> twice"),
        (
            ["--bpe_nlsyms=<unk>"],
            "--bpe_nlsyms: <unk> is a built-in symbol; leave it out",
        ),
        (["--bpe_nlsyms=,"], "--bpe_nlsyms has an empty symbol"),
    ],
)
def test_sentencepieces_errors_name_our_options(tmp_path, options, words):
    text = write_sentences(tmp_path / "text")
    with pytest.raises(SystemExit, match=words) as error:
        make_token_list.main(["--text", text, "--output", f"{tmp_path}/b", *options])
    line = str(error.value)
    assert "\n" not in line and not (tmp_path / "b").exists()
    theirs = ("vocab", "character_coverage", "model_type", "user_defined", ".cc(")
    assert not any(name in line for name in theirs)


def test_the_numbers_that_are_advised_work(tmp_path):
    text = write_sentences(tmp_path / "text")
    for nbpe, mode in (("5000", "unigram"), ("5000", "bpe"), ("3", "unigram")):
        words = ["--text", text, "--output", f"{tmp_path}/{nbpe}{mode}"]
        words += ["--bpemode", mode, "--nbpe"]
        with pytest.raises(SystemExit) as error:
            make_token_list.main([*words, nbpe])
        advised = str(error.value).split("give --nbpe ")[1].split()[0]
        make_token_list.main([*words, advised])


def test_an_unknown_error_of_sentencepiece():
    assert in_our_words("Internal: a.cc(1) [x] use --character_coverage") == (
        "use --bpe_char_cover"
    )
    assert in_our_words("[(trainer_spec.vocab_size()) > (0)] ") == (
        "give a --nbpe above 0"
    )
    assert in_our_words("") == "SentencePiece gives no reason"


# ------------------------------------------------------------------ stamps
def stamped(tmp_path, *extra, command=None, rerun="false"):
    """Run a command under a stamp, as local/data.sh does."""
    command = command or ["cp", str(tmp_path / "in"), str(tmp_path / "out")]
    stage_stamp.main(
        ["run", "--stamp", str(tmp_path / ".done"), "--input", str(tmp_path / "in")]
        + ["--output", str(tmp_path / "out"), "--summary", "a copy", "--rerun", rerun]
        + [*extra, "--", *command]
    )


def test_stamp_skips_work_that_is_done_and_says_why_it_is_done_again(tmp_path, capsys):
    (tmp_path / "in").write_text("one")
    handler = signal.getsignal(signal.SIGTERM)
    stamped(tmp_path, "--option", "a=1")
    assert capsys.readouterr().out == ""
    assert signal.getsignal(signal.SIGTERM) is handler

    fails = ["false"]  # a command that must not run
    stamped(tmp_path, "--option", "a=1", command=fails)
    assert capsys.readouterr().out == "done and unchanged: a copy\n"

    (tmp_path / "in").touch()  # a new time is no new content
    stamped(tmp_path, "--option", "a=1", command=fails)
    capsys.readouterr()

    stamped(tmp_path, "--option", "a=2")
    assert "a was '1', is '2'" in capsys.readouterr().out
    (tmp_path / "in").write_text("two")
    stamped(tmp_path, "--option", "a=2")
    assert "in changed" in capsys.readouterr().out
    (tmp_path / "out").unlink()
    stamped(tmp_path, "--option", "a=2")
    assert "out is missing" in capsys.readouterr().out
    (tmp_path / "out").write_text("edited")
    stamped(tmp_path, "--option", "a=2")
    assert "out was changed" in capsys.readouterr().out
    assert (tmp_path / "out").read_text() == "two"
    stamped(tmp_path, "--option", "a=2", rerun="true")
    assert "--rerun true" in capsys.readouterr().out


def test_stamp_compares_audio_as_stage_3_found_it(tmp_path, capsys):
    (tmp_path / "in").write_text("one")
    stamped(tmp_path)  # by an earlier version, which did not look at audio
    audio = ["--audio", str(tmp_path)]
    formatted = Stamp(tmp_path / ".stage_done")
    formatted.write(fingerprint(options={"audio": "1"}), [], "")
    fails = ["false"]  # a command that must not run
    stamped(tmp_path, *audio, command=fails)
    capsys.readouterr()
    stamped(tmp_path, *audio, rerun="true")
    formatted.write(fingerprint(options={"audio": "2"}), [], "")
    stamped(tmp_path, *audio)
    assert f"again: audio of {tmp_path} changed\n" in capsys.readouterr().out
    stamped(tmp_path, *audio, command=fails)


def test_outputs_in_a_folder_whose_name_is_a_pattern(tmp_path):
    """--asr_args "... strides=[1,2]" gives a folder such a name."""
    folder = tmp_path / "strides[1,2]"
    folder.mkdir()
    (folder / "valid.acc.ave.pth").write_text("")
    assert expand([f"{folder}/*.ave.pth"]) == [f"{folder}/valid.acc.ave.pth"]


def test_features_of_another_encoder_are_refused(tmp_path, capsys):
    record = UpstreamRecord("transformers", "wavlm", "1", 2, 320, 160.0, 320, "ceil")
    (tmp_path / "wavlm").mkdir()
    for name, change in {"dump": {"layers": (3,)}, "exp": {}, "old": {}}.items():
        folder = tmp_path / name
        folder.mkdir()
        text = replace(record, model=str(tmp_path / "wavlm"), **change).to_yaml()
        (folder / "upstream.yaml").write_text(text)
        (folder / "config.yaml").write_text("input_size: 2")
    given = ["--upstream", f"transformers:{tmp_path / 'wavlm'}", "--layers"]
    check_dump.main([*given, "3", str(tmp_path / "dump")])
    check_dump.main([*given, "last", str(tmp_path / "old")])
    check_dump.main(["--model", str(tmp_path / "exp"), str(tmp_path / "old")])
    for words in (
        [*given, "all"],
        [*given, "2 3"],
        ["--upstream", "whisper", "--layers", "last"],
        ["--model", str(tmp_path / "exp")],
    ):
        with pytest.raises(SystemExit, match="has the features of transformers.*: giv"):
            check_dump.main([*words, str(tmp_path / "dump")])


def test_failed_work_leaves_no_stamp(tmp_path):
    (tmp_path / "in").write_text("one")
    stamped(tmp_path)
    (tmp_path / "in").write_text("two")
    with pytest.raises(SystemExit) as error:
        stamped(tmp_path, command=["sh", "-c", "exit 7"])
    assert error.value.code == 7
    assert not (tmp_path / ".done").exists()


def test_input_that_changes_during_the_work_is_noticed(tmp_path, capsys):
    (tmp_path / "in").write_text("one")
    script = f"cp '{tmp_path}/in' '{tmp_path}/out'; echo three > '{tmp_path}/in'"
    stamped(tmp_path, command=["sh", "-c", script])
    stamped(tmp_path)
    assert "in changed" in capsys.readouterr().out


def test_folder_listing_and_torn_stamp(tmp_path):
    tree = tmp_path / "corpus"
    tree.mkdir()
    (tree / "a").write_text("1")
    stamp = Stamp(tmp_path / "stamp")
    stamp.write(fingerprint(trees=[tree]), [], "")
    assert stamp.why_not_done(fingerprint(trees=[tree])) is None
    (tree / "b").write_text("2")
    assert "corpus changed" in stamp.why_not_done(fingerprint(trees=[tree]))
    stamp.path.write_text('{"work": {"inp')
    assert stamp.why_not_done(fingerprint(trees=[tree])) == "not done yet"


def test_inputs_that_come_and_go_and_a_large_output(tmp_path, monkeypatch):
    one, other, model = (tmp_path / name for name in ("one", "other", "model.pth"))
    for path in (one, other, model):
        path.write_text(path.name)
    stamp = Stamp(tmp_path / "stamp")
    stamp.write(fingerprint([one]), [], "")
    both = fingerprint([one, other])
    assert stamp.why_not_done(both) == f"input {other} is new"
    stamp.write(both, [], "")
    assert stamp.why_not_done(fingerprint([one])).endswith("other is no longer used")
    other.unlink()
    assert stamp.why_not_done(fingerprint([one, other])).endswith("other is missing")
    # a folder's file that is written again has another time
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_text("1")
    os.utime(tree / "a", (1, 1))
    stamp.write(fingerprint(trees=[tree]), [], "")
    os.utime(tree / "a", (2, 2))
    assert "tree changed" in stamp.why_not_done(fingerprint(trees=[tree]))
    # what is too large to be read is compared by its size
    monkeypatch.setattr(stamps, "MAX_HASHED_OUTPUT", 4)
    stamp.write({}, [model], "")
    model.write_text(model.name.upper())
    assert stamp.why_not_done({}) is None
    model.write_text("another model")
    assert stamp.why_not_done({}) == f"output {model} was changed"


# ------------------------------------------------------------------ logs
HOST = "[host] 2026-01-01 10:00:00,000 (trainer:394) INFO: "


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n\n"
            "During handling of the above exception, another exception occurred:\n\n"
            'Traceback (most recent call last):\n  File "y"\n'
            "torch.OutOfMemoryError: CUDA out\nof memory.\n",
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
        (
            "usage: asr_train.py [-h]\n"
            "asr_train.py: error: unrecognized arguments: --x\n",
            "asr_train.py: error: unrecognized arguments: --x",
        ),
        ("starting\nerror: unknown word 'x'\n\nbye\n", "unknown word 'x'"),
        (
            "ValueError: no GPUs found!\nTraceback (most recent call last):\n"
            '  File "x"\ntorch.multiprocessing.spawn.'
            "ProcessExitedException: process 0\n",
            "ValueError: no GPUs found!",
        ),
        ("starting\nSegmentation fault\n\n", "Segmentation fault"),
        (
            "RuntimeError: Connection closed by peer\n\nE1 failed\n"
            "torch.multiprocessing.spawn.ProcessExitedException: process 1 terminated "
            "with signal SIGKILL\nRuntimeError: Connection closed by peer\n",
            "rank 1 was ended by SIGKILL (out of memory? then smaller batches, fewer "
            "jobs); run the same command to resume, a training from its "
            "last finished epoch",
        ),
        (
            "srun: error: n2: task 1: Killed\n[rank0]: RuntimeError: closed by peer\n"
            "srun: error: n1: task 0: Exited with exit code 1\n",
            "rank 1 on n2 was ended by SIGKILL (out of memory? then smaller batches, "
            "fewer jobs); run the same command to resume, a training from "
            "its last finished epoch",
        ),
        (
            "[rank0]: RuntimeError: closed by peer\n---------\n"
            "mpirun noticed that process rank 1 with PID 712 on node n2 exited on "
            "signal 9 (Killed).\n---------\n# Finished with status 137\n",
            "rank 1 on n2 was ended by SIGKILL (out of memory? then smaller batches, "
            "fewer jobs); run the same command to resume, a training from "
            "its last finished epoch",
        ),
        (
            "/opt/slurm.pl: Command line option name not described in conf/slurm.conf\n"
            "Traceback (most recent call last):\n  File x\nRuntimeError\n",
            "/opt/slurm.pl: Command line option name not described in conf/slurm.conf",
        ),
        ("", "the log is empty"),
    ],
)
def test_last_error(tmp_path, text, message):
    (tmp_path / "log").write_text(text)
    assert logs.last_error(tmp_path / "log") == message


def test_training_log_gives_one_line_an_epoch(tmp_path):
    path = tmp_path / "train.log"
    log = logs.TrainingLog(path)
    assert log.new_lines() == []
    line = (
        "{0}epoch results: [train] loss_ctc=9.1, loss=8.5, loss_vp=0.031, "
        "stride_entropy=0.987, acc=0.2, "
        "time=1 hour, 2 minutes and 3.5 seconds, total_count=9, [valid] loss=7.25, "
        "cer_ctc=0.5, acc=0.3, time=6.5 seconds, total_count=3, [att_plot] "
        "time=1 minute and 50 seconds, total_count=0\n"
    )
    with path.open("w") as file:
        file.write(HOST + "1/3epoch started\n" + HOST + line.format(1)[:100])
        file.flush()
        assert log.new_lines() == []  # a half-written line waits
        file.write(line.format(1)[100:] + HOST + "2/3epoch started. Estimated time\n")
        file.flush()
        assert log.new_lines() == [
            "epoch 1/3, loss train 8.5 valid 7.25, valid acc 0.3, valid cer_ctc 0.5, "
            "loss_vp 0.031, stride_entropy 0.987, 1 h 04 min, ETA 2 h 08 min"
        ]
        assert log.new_lines() == []
    os.replace(path, tmp_path / "train.1.log")  # a resumed training: a new log
    last = line.format(3).replace("acc=0.3", "acc=nan")
    path.write_text(HOST + "3/3epoch started\n" + HOST + last)
    (resumed,) = log.new_lines()
    assert resumed.startswith("epoch 3/3, ") and "ETA" not in resumed
    assert "acc" not in resumed and "valid cer_ctc 0.5" in resumed


# ------------------------------------------------------------------ decoding
def write_decoded(logdir, hypotheses):
    for job, table in enumerate(hypotheses, 1):
        folder = logdir / f"output.{job}" / "1best_recog"
        for name in decoding.FILES:
            datadir.write_table(folder / name, table)
        (logdir / f"asr_inference.{job}.log").write_text(
            "2026-01-01 10:00:00,000 (asr_inference:1) INFO: loading\n"
            "2026-01-01 10:00:20,000 (asr_inference:2) INFO: speech length: 16000\n"
            "2026-01-01 10:00:21,500 (asr_inference:3) INFO: best hypo: X\n"
        )


def test_join_decoded(tmp_path):
    data, logdir = tmp_path / "data", tmp_path / "logdir"
    datadir.write_table(data / "wav.scp", {k: "x.flac" for k in ("u1", "u2", "u3")})
    datadir.write_table(data / "utt2num_samples", {f"u{i}": "16000" for i in (1, 2, 3)})
    paths = (logdir, tmp_path / "out", data / "wav.scp", data / "utt2num_samples")

    write_decoded(logdir, [{"u3": "C"}, {"u1": "A A"}])
    with pytest.raises(UserError, match="1 of 3 .* not decoded; the first: u2"):
        decoding.join_decoded(*paths, 16000)
    assert not (tmp_path / "out").exists()

    write_decoded(logdir, [{"u3": "C"}, {"u1": "A A", "u2": ""}])
    line = decoding.join_decoded(*paths, 16000)
    assert (tmp_path / "out" / "text").read_text() == "u1 A A\nu2\nu3 C\n"
    assert "real-time factor 1.000" in line  # 2 x 1.5 s for 3 s
    assert "1 empty hypotheses (the first: u2)" in line
    assert decoding.count_decoded(logdir) == 3
    # what has not reached a job's text yet is in its log, and the other way round
    (logdir / "output.1" / "1best_recog" / "text").write_text("")
    (logdir / "asr_inference.2.log").write_text("")
    assert decoding.count_decoded(logdir) == 3
    (logdir / "output.2" / "1best_recog" / "text").write_text("u1 A A\n")
    assert decoding.count_decoded(logdir) == 2


def test_progress_of_decoding_in_a_log_is_a_line_every_half_minute(
    tmp_path, monkeypatch, capsys
):
    now, done = [0.0], [0]
    monkeypatch.setattr(decoding, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(decoding, "count_decoded", lambda folder: done[0])
    progress = decoding.DecodingProgress(str(tmp_path), 4)
    for now[0], done[0] in ((1, 0), (31, 1), (60, 3), (62, 3), (93, 3), (124, 5)):
        progress()
    assert capsys.readouterr().out.splitlines() == [
        "decoded 1/4 utterances, 31 s, ETA 1 min 33 s",
        "decoded 3/4 utterances, 1 min 02 s, ETA 21 s",
        "decoded 4/4 utterances, 2 min 04 s",
    ]


# ---------------------------------------------------------------- statistics, training
def test_text_shape_gets_the_vocabulary_size(tmp_path):
    (tmp_path / "text_shape").write_text("u1 7\nu2 12\n")
    add_vocabulary_size(tmp_path, "bpe", 300)
    assert (tmp_path / "text_shape.bpe").read_text() == "u1 7,300\nu2 12,300\n"


def test_statistics_depend_on_the_front_end_alone(tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("encoder_conf: {num_blocks: 2}\nfrontend_conf: {n_fft: 512}\n")
    arguments = "--max_epoch 3 --frontend_conf n_fft=400"
    options = training_options(config, arguments)
    assert options["max_epoch"] == "3" and options["encoder_conf.num_blocks"] == "2"
    assert statistics_options(options) == {"frontend_conf.n_fft": "400"}


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"frontend_conf.win_length": "400"}, "win_length was not set, is 400; begin"),
        ({"frontend_conf.n_fft": "512"}, "n_fft was 400, is not set; begin with --s"),
        ({"frontend": "huggingface"}, "frontend was not set, is huggingface; begin"),
        # the same features: augmentation is off, and these are ESPnet's defaults
        ({"preprocessor_conf.data_aug_prob": "0.5", "encoder": "conformer"}, None),
        ({"frontend_conf.fs": "16k", "frontend_conf.n_mels": "80"}, None),
        ({"frontend": "default", "frontend_conf.fmax": "None"}, None),
    ],
)
def test_statistics_of_other_features_are_refused(tmp_path, changed, words):
    pytest.importorskip("espnet2")
    before = {"frontend_conf.n_fft": "400", "frontend_conf.hop_length": "160"}
    check_features(tmp_path, changed)  # those of an earlier version have no record
    work = fingerprint(options={"configuration": statistics_options(before)})
    Stamp(tmp_path / ".stage_done").write(work, [], "done")
    # in another order than in stage 10
    check_features(tmp_path, dict(reversed(before.items())))
    if words is None:
        return check_features(tmp_path, {**changed, **before})
    with pytest.raises(UserError, match=words):
        check_features(tmp_path, {**before, **changed})


def test_a_changed_training_is_refused_and_more_epochs_are_not(tmp_path):
    record, checkpoint = tmp_path / ".training.json", tmp_path / "checkpoint.pth"
    options = {"max_epoch": 3, "optim_conf.lr": 0.1, "seed": 1, "file text": "1f3c"}
    options["pretrained_model"] = ""
    training.start_or_resume(record, checkpoint, {"seed": 0})  # no model: may change
    training.start_or_resume(record, checkpoint, options)
    torch.save({}, checkpoint)
    training.start_or_resume(record, checkpoint, options)
    line = training.start_or_resume(record, checkpoint, {**options, "max_epoch": 5})
    assert "max_epoch 3 -> 5" in line
    with pytest.raises(UserError, match=r"optim_conf.lr was 0.1, is 0.2.*--asr_tag"):
        training.start_or_resume(record, checkpoint, {**options, "optim_conf.lr": 0.2})
    with pytest.raises(UserError, match="the file text changed"):
        training.start_or_resume(record, checkpoint, {**options, "file text": "9e"})
    with pytest.raises(UserError, match="pretrained_model was not set, is x.pth"):
        given = {**options, "pretrained_model": "x.pth"}
        training.start_or_resume(record, checkpoint, given)
    changed = {**options, "max_epoch": 5}
    del changed["seed"]
    with pytest.raises(UserError, match="seed was 1, is not set"):
        training.start_or_resume(record, checkpoint, changed)
    assert json.loads(record.read_text())["max_epoch"] == "5"
    several = {**options, "optim_conf.lr": 0.2, "seed": 2}
    with pytest.raises(UserError, match=r"is 0.2 \(and 1 more: seed\); give"):
        training.start_or_resume(record, checkpoint, several)
    record.write_text('{"max_ep')  # torn, or of a version that wrote none
    line = training.start_or_resume(record, checkpoint, several)
    assert line == f"resumes from {checkpoint}, whose options were not recorded"
    assert json.loads(record.read_text())["optim_conf.lr"] == "0.2"


@pytest.mark.parametrize(
    "model", ["12epoch.pth", "valid.acc.ave.pth", "valid.acc.ave_5best.pth"]
)
def test_models_without_a_checkpoint_are_not_replaced(tmp_path, model):
    record, checkpoint = tmp_path / ".training.json", tmp_path / "checkpoint.pth"
    options = {"encoder_conf.num_blocks": "12", "max_epoch": "12"}
    training.start_or_resume(record, checkpoint, options)
    (tmp_path / model).touch()
    assert training.start_or_resume(record, checkpoint, options) == "a new training"
    # more epochs, too: they would begin with the first
    for name, value in (("encoder_conf.num_blocks", "6"), ("max_epoch", "20")):
        words = f"{name} was 12, is {value}, and .*checkpoint.pth, to resume from, is"
        with pytest.raises(UserError, match=words):
            training.start_or_resume(record, checkpoint, {**options, name: value})
    assert json.loads(record.read_text()) == options


def test_a_truncated_checkpoint_is_refused_with_the_newest_whole_model(tmp_path):
    record, checkpoint = tmp_path / ".training.json", tmp_path / "checkpoint.pth"
    torch.save({"weight": torch.zeros(500)}, checkpoint)
    whole = checkpoint.read_bytes()
    for content in (whole[:-100], b""):
        checkpoint.write_bytes(content)
        with pytest.raises(UserError, match=f"is truncated.*; remove {tmp_path} to"):
            training.start_or_resume(record, checkpoint, {"seed": 1})
    assert not record.exists()
    for number, content in ((9, whole), (10, whole), (11, whole[:-100])):
        (tmp_path / f"{number}epoch.pth").write_bytes(content)
    (tmp_path / "valid.acc.best.12epoch.pth").write_bytes(whole)
    with pytest.raises(UserError, match=f"--pretrained_model {tmp_path}/10epoch.pth, "):
        training.start_or_resume(record, checkpoint, {"seed": 1})
    # a format that cannot be checked, of an early PyTorch
    torch.save({}, checkpoint, _use_new_zipfile_serialization=False)
    training.start_or_resume(record, checkpoint, {"seed": 1})


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: [1\n", r"not YAML: expected .* \(line 2, column 1\)"),
        ("- a\n", "option: value"),
        ("a: 2024-13-45\n", "not YAML: month must be in 1..12"),
    ],
)
def test_unreadable_configuration(tmp_path, text, words):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_config(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)


def test_atomic_save_keeps_the_old_file_when_it_is_stopped(tmp_path):
    path = tmp_path / "checkpoint.pth"
    save = atomic(torch.save)
    save({"epoch": 1}, path)
    (tmp_path / "latest.pth").symlink_to(path.name)

    def stopped(obj, name):
        Path(name).write_bytes(b"half a checkp")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic(stopped)({"epoch": 2}, path)
    assert torch.load(path) == {"epoch": 1}
    save({"epoch": 3}, tmp_path / "latest.pth")
    assert (tmp_path / "latest.pth").is_symlink() and torch.load(path) == {"epoch": 3}
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["checkpoint.pth", "latest.pth"]


# ------------------------------------------------------------------ jobs, locks
def test_jobs_run_at_once_with_their_numbers(tmp_path):
    # each waits for the other's file: in sequence they would wait for ever
    folder = tmp_path / "JOB.7" / "JOBS"  # a scheduler may call its folders so
    folder.mkdir(parents=True)
    wait = "until [ -e 1 ] && [ -e 2 ]; do sleep 0.05; done"
    script = f"cd $0; touch JOB; {wait}; echo JOB"
    log = str(folder / "my log.JOB")
    run_jobs.main(["JOB=1:2", log, "sh", "-c", script, str(folder)])
    assert [(folder / f"my log.{n}").read_text() for n in (1, 2)] == ["1\n", "2\n"]
    (folder / "x.scp").write_text("a 1\nb 2\n")
    pattern = str(folder / "keys.JOB.scp")
    split_scp.main(["--nj", "2", "--split", str(folder / "x.scp"), pattern])
    assert (folder / "keys.2.scp").read_text() == "b 2\n"
    named = "ark,scp:JOB/x.JOB.ark,x.JOB.scp"
    assert numbered(named, 2) == "ark,scp:JOB/x.2.ark,x.2.scp"


def test_a_failed_job_stops_the_others_and_names_its_log(tmp_path):
    script = "if [ JOB = 1 ]; then echo 'ValueError: bad'; exit 3; fi; sleep 600"
    start = time.monotonic()
    with pytest.raises(SystemExit, match=r"error: .*log\.1: ValueError: bad"):
        run_jobs.main(["JOB=1:2", str(tmp_path / "log.JOB"), "sh", "-c", script])
    assert time.monotonic() - start < 300


def test_progress_is_polled_after_each_interval_and_at_the_end(tmp_path):
    start, polled = time.monotonic(), []

    def poll():
        polled.append(time.monotonic() - start)
        (tmp_path / "polled").touch()

    # the job ends once polled
    wait = "for _ in $(seq 600); do [ -e $0/polled ] && exit; sleep 0.05; done"
    jobs_at_once([Job(["sh", "-c", wait, str(tmp_path)], tmp_path / "log")], poll)
    assert len(polled) >= 2 and polled[0] >= 0.3
    polled.clear()
    jobs_at_once([Job(["true"], tmp_path / "log")], poll)
    assert polled


def test_a_job_that_was_killed_says_so(tmp_path):
    with pytest.raises(SystemExit, match="SIGKILL .out of memory"):
        run_jobs.main([str(tmp_path / "log"), "sh", "-c", "echo hello; kill -9 $$"])


def test_a_command_that_is_not_there(tmp_path):
    with pytest.raises(SystemExit, match="cannot start no-such-command"):
        run_jobs.main([str(tmp_path / "log"), "no-such-command"])


def test_a_training_that_espnet_gave_up_has_failed(tmp_path):
    """ESPnet leaves with status 0 then, e.g. for a language model."""
    said = "[host] 2026-11-27 05:00:00,000 (trainer:1) WARNING: The gradients at all "
    said += "steps are invalid in this epoch. Something seems wrong. This training was "
    said += "stopped at 2epoch"
    log = str(tmp_path / "train.log")
    words = ["--training_log", log, "--rotate", "true", log, "echo"]
    with pytest.raises(
        SystemExit, match="all steps are invalid .* at 2epoch; the training gave"
    ):
        run_jobs.main([*words, said])
    run_jobs.main([*words, "fine"])  # what an older log says does not count


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_signal_leaves_jobs_behind(tmp_path, number):
    # the job starts a child and refuses SIGTERM where that can be refused
    refuse = "" if number == signal.SIGKILL else "trap '' TERM; "
    tell = "echo $$ $! > pids.new; mv pids.new pids"
    script = f"{refuse}sleep 100 & {tell}; wait; sleep 90"
    process = subprocess.Popen(
        [sys.executable, "-m", "espnet_adastride.bin.run_jobs", "--grace", "0.5"]
        + [str(tmp_path / "log"), "sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    wait_for((tmp_path / "pids").exists, 60)
    leader, child = map(int, (tmp_path / "pids").read_text().split())
    process.send_signal(number)
    status = process.wait(30)
    assert status == (-9 if number == signal.SIGKILL else 130)
    wait_for(lambda: not alive(leader))
    if number != signal.SIGKILL:
        wait_for(lambda: not alive(child))
    else:
        os.kill(child, signal.SIGKILL)  # a shell's child, for which nobody can ask


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_signal_while_a_job_starts_leaves_none_behind(tmp_path, monkeypatch):
    started = []
    fork, execute = os.fork, subprocess.Popen._execute_child

    def interrupted_fork():
        started.append(fork())
        if started[-1]:
            os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    def interrupted_execute(process, *args):
        execute(process, *args)
        started.append(process.pid)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "fork", interrupted_fork)
    monkeypatch.setattr(subprocess.Popen, "_execute_child", interrupted_execute)
    for number, command in enumerate((["sleep", "30"], partial(time.sleep, 30))):
        with pytest.raises(Interrupted):
            jobs_at_once([Job(command, tmp_path / "log")], grace=1.0)
        assert len(started) == number + 1 and not alive(started[-1])


def test_logs_rotate(tmp_path):
    log = tmp_path / "train.log"
    for text in ("first", "second", "third"):
        rotate(log)
        log.write_text(text)
    names = ("train.log", "train.1.log", "train.2.log")
    assert [(tmp_path / n).read_text() for n in names] == ["third", "second", "first"]


def test_lock_refuses_a_second_holder_and_survives_a_stale_file(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("process 99999999 since long ago\n")  # a driver that was killed
    with path.open("a") as first, path.open("a") as second:
        lock(first.fileno(), path, False, "process 1")
        with pytest.raises(UserError, match=r"another driver .*process 1"):
            lock(second.fileno(), path, False, "process 2")
        fcntl.flock(first.fileno(), fcntl.LOCK_UN)
        lock(second.fileno(), path, False, "process 2")
        assert path.read_text() == "process 2\n"


def hold(path, *more):
    """Start a shell that locks ``path`` as asr.sh does, and then does ``more``."""
    python = f"{sys.executable} -m espnet_adastride.bin.lock_folder"
    script = "; ".join([f"exec 9>>{path}", f"{python} --wait true 9 {path}", *more])
    return subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True)


def test_a_lock_is_the_shells_and_ends_with_it(tmp_path):
    path = tmp_path / ".lock"
    shell = hold(path, "echo locked", "exec sleep 60")
    try:
        assert shell.stdout.readline() == "locked\n"
        with pytest.raises(UserError) as error, alone(tmp_path, "--exp"):
            pass
        assert str(error.value).startswith(
            f"another driver works in {tmp_path} (process {shell.pid} since "
        )
        assert str(error.value).endswith("or give this run another --exp")
        other = hold(path, "echo locked")
        waiting = other.stdout.readline()
        assert waiting.startswith(f"waiting: another driver works in {tmp_path}")
    finally:
        shell.kill()  # SIGKILL leaves the file; the lock ends with the process
    assert other.communicate(timeout=60)[0] == "locked\n" and other.returncode == 0
    with alone(tmp_path, "--exp"):
        assert path.read_text() == f"process {os.getpid()}\n"


def test_an_interruption_ends_the_waiting(tmp_path):
    with alone(tmp_path, "--exp"):
        command = [sys.executable, "-m", "espnet_adastride.bin.lock_folder", "--wait"]
        with (tmp_path / ".lock").open("a") as file:
            waiting = subprocess.Popen(
                [*command, "true", str(file.fileno()), str(tmp_path / ".lock")],
                stdout=subprocess.PIPE,
                pass_fds=[file.fileno()],
            )
        assert waiting.stdout.readline().startswith(b"waiting: ")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=60) == 130


def test_a_bar_in_a_log_is_a_line_every_half_minute(capfd):
    def logged(*args, **options):
        with progress_bar(*args, **options) as bar:
            now = bar.start_t + 0.001
            bar._time = lambda: now
            for _ in range(8):
                now += 5.0
                bar.update(5)
        return capfd.readouterr().err

    # one a second: the ten of an earlier run do not count
    # nothing clears a terminal's line, and what follows has a line of its own
    said = logged(50, "extracting", "utterance", done=10)
    assert said == "extracting: 40/50 utterances, ETA 00:10\n"
    assert logged(None, "unpacking") == "unpacking: 30 files\n"
