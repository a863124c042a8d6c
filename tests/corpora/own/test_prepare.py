"""One's own recordings as data directories: seven ways, and what may be wrong."""

import errno
import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin import prepare as command
from espnet_adastride.corpora import audio
from espnet_adastride.corpora.datadir import read_data_dir
from espnet_adastride.corpora.kaldi import read_scp
from espnet_adastride.corpora.own import audio as own_audio
from espnet_adastride.corpora.own.source import clean, parse_time

RATE = 16000
SPEAKERS = ("anna", "ben", "cleo", "dan", "eve")


def noise(number, samples=4000):
    """Return int16 samples that differ from those of other numbers."""
    return np.random.default_rng(number).integers(-30000, 30000, samples, dtype="int16")


def write(path, wave, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with recordings wav/SPEAKER/N.wav, two of each speaker."""
    folder = tmp_path / "my project"
    for number, speaker in enumerate(SPEAKERS):
        for take in range(2):
            name = folder / "wav" / speaker / f"{take}.wav"
            write(name, noise(10 * number + take))
    monkeypatch.chdir(folder)
    return folder


def text_of(speaker, take):
    return f"{speaker.upper()} SAYS “{take}”, ok"


def prepare(*words):
    command.main([str(word) for word in words])


def refused(*words):
    with pytest.raises(SystemExit) as stop:
        prepare(*words)
    line = str(stop.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def contents(output="data"):
    """Return {set: {id: (path, text, speaker)}}."""
    return {
        folder.name: {
            key: tuple(table[key] for table in read_data_dir(folder).values())
            for key in read_scp(folder / "wav.scp")
        }
        for folder in sorted(Path(output).glob("[!.]*"))
        if folder.is_dir()
    }


def everything(output="data"):
    return {k: v for part in contents(output).values() for k, v in part.items()}


def expected(project, prefix=""):
    return {
        f"{speaker}-{prefix}{speaker}_{take}": (
            str(project / "wav" / speaker / f"{take}.wav"),
            text_of(speaker, take),
            speaker,
        )
        for speaker in SPEAKERS
        for take in range(2)
    }


def speakers_of(part):
    return {speaker for _, _, speaker in part.values()}


def assert_split_by_speaker(sets):
    assert sorted(sets) == ["test", "train", "valid"]
    speakers = [speakers_of(part) for part in sets.values()]
    assert set().union(*speakers) == set(SPEAKERS)
    assert sum(map(len, speakers)) == len(SPEAKERS)  # none is in two
    assert [len(sets[part]) for part in ("train", "valid", "test")] == [6, 2, 2]


ROWS = [(f"wav/{s}/{t}.wav", text_of(s, t), s) for s in SPEAKERS for t in range(2)]


# ----------------------------------------------------------------- the seven ways
def kaldi_lines(project):
    """Return the lines of wav.scp, text and utt2spk."""
    keys = [(f"{s}-{t}", s, t) for s in SPEAKERS for t in range(2)]
    return {
        "wav.scp": [f"{k} wav/{s}/{t}.wav" for k, s, t in keys],
        "text": [f"{k} {text_of(s, t)}" for k, s, t in keys],
        "utt2spk": [f"{k} {s}" for k, s, t in keys],
    }


def write_kaldi(folder, lines, end="\n", start="", separator=" "):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in lines.items():
        rows = [row.replace(" ", separator, 1) for row in rows]
        content = start + "".join(row + end for row in rows)
        (folder / name).write_bytes(content.encode())
    return folder


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"end": "\r\n"},
        {"start": "\ufeff"},
        {"separator": "\t"},
        {"end": "\r\n", "start": "\ufeff", "separator": "\t"},
    ],
)
def test_a_kaldi_folder(project, capsys, form):
    lines = kaldi_lines(project)
    lines["wav.scp"].reverse()  # the order of lines does not matter
    prepare(write_kaldi(project / "kaldi", lines, **form))
    sets = contents()
    assert_split_by_speaker(sets)
    assert everything() == {
        f"{s}-{t}": (str(project / "wav" / s / f"{t}.wav"), text_of(s, t), s)
        for s in SPEAKERS
        for t in range(2)
    }
    for part, rows in sets.items():
        assert (Path("data") / part / "text").read_text() == "".join(
            f"{key} {rows[key][1]}\n" for key in sorted(rows)
        )
        spk2utt = read_scp(Path("data") / part / "spk2utt")
        assert spk2utt == {
            s: " ".join(k for k in sorted(rows) if rows[k][2] == s)
            for s in speakers_of(rows)
        }
    out = capsys.readouterr().out
    assert f"paths are relative to {project}" in out
    assert "data/train: 6 utterances, 0.0 min, 3 speakers" in out
    assert "/egs/asr.sh --train_set train --valid_set valid --test_sets test" in out


def test_a_kaldi_folder_without_utt2spk(project, capsys):
    lines = kaldi_lines(project)
    del lines["utt2spk"]
    folder = write_kaldi(project / "kaldi", lines)
    prepare(folder)
    out = capsys.readouterr().out
    assert "no utt2spk; the speakers are unknown" in out
    assert "split by utterance, seed 0: the speakers are unknown" in out
    found = everything()
    assert len(found) == 10 and all(k == s for k, (_, _, s) in found.items())
    # with spk2utt the speakers are known
    (folder / "spk2utt").write_text("".join(f"{s} {s}-0 {s}-1\n" for s in SPEAKERS))
    prepare(folder, "--output", "more")
    assert "using the speakers in spk2utt" in capsys.readouterr().out
    assert_split_by_speaker(contents("more"))


def test_kaldi_sets_in_sub_folders(project, capsys):
    parts = {"train": SPEAKERS[:3], "dev": SPEAKERS[3:4], "test": SPEAKERS[4:]}
    for part, speakers in parts.items():
        lines = {
            name: [row for row in rows if row.startswith(speakers)]
            for name, rows in kaldi_lines(project).items()
        }
        write_kaldi(project / "kaldi" / part, lines)
    (project / "kaldi" / "local").mkdir()
    prepare("kaldi")
    assert {p: speakers_of(rows) for p, rows in contents().items()} == {
        "train": set(SPEAKERS[:3]),
        "valid": set(SPEAKERS[3:4]),
        "test": set(SPEAKERS[4:]),
    }
    assert "not used: local" in capsys.readouterr().out


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("start, end", [("", "\n"), ("\ufeff", "\r\n")])
def test_a_csv_file(project, capsys, separator, start, end):
    header = separator.join(["path", "text", "speaker", "age"])
    rows = [separator.join([p, f'"{t}"', s, "7"]) for p, t, s in ROWS]
    content = start + end.join([header, *rows, "", ""])
    (project / "all.csv").write_bytes(content.encode())
    prepare("all.csv")
    assert_split_by_speaker(contents())
    assert everything() == expected(project, "wav_")
    assert "text: text, speaker: speaker; not used: age" in capsys.readouterr().out


def test_quotation_marks_in_csv(project):
    (project / "a.csv").write_text(
        "file_name,sentence\n"
        'wav/anna/0.wav,"She said ""no"", twice"\n'
        'wav/anna/1.wav,"two\nlines"\n'
        "wav/ben/0.wav,plain\n"
    )
    prepare("a.csv", "--split", "none")
    assert {k: t for k, (_, t, _) in everything().items()} == {
        "wav_anna_0": 'She said "no", twice',
        "wav_anna_1": "two lines",
        "wav_ben_0": "plain",
    }


def test_a_space_after_the_separator(project):
    """It may be before a quotation mark, which still is not part of the field."""
    (project / "a.csv").write_text(
        "path, text, speaker\n"
        'wav/anna/0.wav, "hello, there", "anna"\n'
        'wav/ben/1.wav, "say ""yes"" now", ben\n'
        'wav/cleo/0.wav,  the word "no" ,cleo\n'
    )
    prepare("a.csv", "--split", "none")
    assert {k: row[1:] for k, row in everything().items()} == {
        "anna-wav_anna_0": ("hello, there", "anna"),
        "ben-wav_ben_1": ('say "yes" now', "ben"),
        "cleo-wav_cleo_0": ('the word "no"', "cleo"),
    }


@pytest.mark.parametrize(
    "name, row, words",
    [
        ("a.csv", "x.wav,hello, there", "3 instead of 2; put quotation marks around"),
        ("a.csv", "x.wav", "1 instead of 2; add the missing fields"),
        ("a.tsv", 'x.wav\t"a\tb"', "3 instead of 2; write a space instead of a tab"),
    ],
)
def test_the_fix_for_a_wrong_number_of_columns(project, name, row, words):
    header = "path\ttext" if name.endswith("tsv") else "path,text"
    (project / name).write_text(f"{header}\n{row}\n")
    assert f"{name}:2: wrong number of columns: {words}" in refused(name)


def test_a_tsv_file_with_sets_and_ids(project):
    lines = ["id\twav\ttranscript\tspk\tsplit\n"]
    where = dict(zip(SPEAKERS, ("train", "train", "dev", "test", "more")))
    for number, (path, text, speaker) in enumerate(ROWS):
        text = '"quoted ""words"""' if number == 0 else f'"{number}" of 10'
        lines.append(f"u{number}\t{path}\t{text}\t{speaker}\t{where[speaker]}\n")
    (project / "all.tsv").write_text("".join(lines))
    prepare("all.tsv")
    sets = contents()
    assert {part: set(rows) for part, rows in sets.items()} == {
        "train": {"anna-u0", "anna-u1", "ben-u2", "ben-u3"},
        "valid": {"cleo-u4", "cleo-u5"},
        "test": {"dan-u6", "dan-u7"},
        "more": {"eve-u8", "eve-u9"},
    }
    assert sets["train"]["anna-u0"][1] == 'quoted "words"'
    assert sets["train"]["anna-u1"][1] == '"1" of 10'


def test_json_lines(project):
    with open("all.jsonl", "w", encoding="utf-8-sig") as file:
        for path, text, speaker in ROWS:
            # as NeMo writes them; the duration alone cuts nothing
            entry = {"audio_filepath": str(project / path), "duration": 0.25}
            entry.update({"text": text, "speaker": speaker})
            file.write(json.dumps(entry) + "\n")
    prepare("all.jsonl")
    assert_split_by_speaker(contents())
    assert everything() == expected(project, "wav_")


def test_recordings_with_txt_files(project, capsys):
    for speaker in SPEAKERS:
        for take in range(2):
            text = text_of(speaker, take).replace(" ", "\r\n", 1)
            path = project / "wav" / speaker / f"{take}.txt"
            path.write_bytes(f"\ufeff{text}\r\n".encode())
    (project / "wav" / "notes.md").write_text("x")
    prepare("wav", "--speaker_from", "folder")
    assert_split_by_speaker(contents())
    assert everything() == {
        key.split("-", 1)[1]: value for key, value in expected(project).items()
    }
    prepare("wav", "--output", "again", "--speaker_from", "^([a-d]+|.+)/")
    assert everything("again").keys() == everything().keys()
    capsys.readouterr()
    prepare("wav", "--output", "unknown")
    assert "the speakers are unknown" in capsys.readouterr().out


def test_segments(project):
    lines = {
        "wav.scp": ["talk wav/anna/0.wav", "mp wav/ben/0.wav"],
        "segments": ["a talk 0.05 0.10", "b talk 0.1 -1", "c mp 0.00 0.25"],
        "text": ["a ONE", "b TWO", "c THREE"],
        "utt2spk": ["a x", "b x", "c y"],
    }
    prepare(write_kaldi(project / "kaldi", lines), "--split", "none")
    rows = everything()
    assert {k: r[1:] for k, r in rows.items()} == {
        "a": ("ONE", "x"),
        "b": ("TWO", "x"),
        "c": ("THREE", "y"),
    }
    waves = {key: soundfile.read(row[0], dtype="int16") for key, row in rows.items()}
    assert {rate for _, rate in waves.values()} == {RATE}
    assert np.array_equal(waves["a"][0], noise(0)[800:1600])
    assert np.array_equal(waves["b"][0], noise(0)[1600:])
    assert np.array_equal(waves["c"][0], noise(10))
    assert rows["a"][0] == str(project / "data" / "train" / "audio" / "a.flac")


def test_start_and_end_columns(project, capsys):
    (project / "cuts.csv").write_text(
        "path;text;start;end\n"
        "wav/anna/0.wav;ONE;0,05;0,1\n"
        "wav/anna/0.wav;TWO;0:00.1;\n"
        "wav/ben/1.wav;ALL;;\n"
    )
    prepare("cuts.csv", "--split", "none")
    rows = everything()
    assert {k: r[1] for k, r in rows.items()} == {
        "wav_anna_0-00000050-00000100": "ONE",
        "wav_anna_0-00000100-end": "TWO",
        "wav_ben_1": "ALL",
    }
    audio = project / "data" / "train" / "audio"
    wave, _ = soundfile.read(audio / "wav_anna_0-00000050-00000100.flac", dtype="int16")
    assert np.array_equal(wave, noise(0)[800:1600])
    wave, _ = soundfile.read(audio / "wav_anna_0-00000100-end.flac", dtype="int16")
    assert np.array_equal(wave, noise(0)[1600:])
    assert rows["wav_ben_1"][0] == str(project / "wav" / "ben" / "1.wav")
    assert "2 cut out or converted" in capsys.readouterr().out
    # NeMo's offset and duration are a cut, too
    entry = {"audio_filepath": "wav/anna/0.wav", "offset": 0.05, "duration": 0.05}
    (project / "m.jsonl").write_text(json.dumps({**entry, "text": "ONE"}))
    prepare("m.jsonl", "--split", "none", "--output", "nemo")
    ((path, _, _),) = everything("nemo").values()
    assert np.array_equal(soundfile.read(path, dtype="int16")[0], noise(0)[800:1600])


def common_voice(project, names=("validated",)):
    """Write Common Voice's layout: a file for each speaker and take."""
    corpus = project / "cv" / "xy"
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tsegment\n"
    for name in names:
        lines = [header]
        for number, speaker in enumerate(SPEAKERS):
            for take in range(2):
                file = f"common_voice_xy_{number}{take}.flac"
                if not (corpus / "clips" / file).exists():
                    write(corpus / "clips" / file, noise(10 * number + take))
                if name == "validated" or names.index(name) == min(number, 2):
                    text = f'"{speaker} says {take}'  # one quotation mark, unpaired
                    client = speaker * 30
                    lines.append(f"{client}\t{file}\tz\t{text}\t2\t\n")
        (corpus / f"{name}.tsv").write_text("".join(lines))
    return corpus


def test_common_voice_is_split_by_speaker(project):
    corpus = common_voice(project)
    prepare(corpus)
    sets = contents()
    # ids of 90 and more characters are abbreviated
    short = {s: (s * 30)[:12] for s in SPEAKERS}
    speakers = [speakers_of(rows) for rows in sets.values()]
    assert set().union(*speakers) == set(short.values())
    assert sum(map(len, speakers)) == 5
    assert everything() == {
        f"{short[s]}-common_voice_xy_{n}{t}": (
            str(corpus / "clips" / f"common_voice_xy_{n}{t}.flac"),
            f'"{s} says {t}',
            short[s],
        )
        for n, s in enumerate(SPEAKERS)
        for t in range(2)
    }


def test_the_sets_of_common_voice(project):
    corpus = common_voice(project, ("train", "dev", "test", "validated"))
    prepare(corpus)
    found = {p: sorted(k[-2:] for k in rows) for p, rows in contents().items()}
    assert found == {
        "train": ["00", "01"],
        "valid": ["10", "11"],
        "test": ["20", "21", "30", "31", "40", "41"],
    }
    # a table that is named is split
    prepare(corpus / "validated.tsv", "--output", "own")
    assert len(everything("own")) == 10


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_hugging_face_folders(project, kind):
    def metadata(folder, rows):
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "csv":
            lines = ["file_name,transcription"] + [f"{n},{t}" for n, t in rows]
        else:
            lines = [json.dumps({"file_name": n, "transcription": t}) for n, t in rows]
        (folder / f"metadata.{kind}").write_text("\n".join(lines) + "\n")

    hub = project / "hub"
    for part, number in (("train", 1), ("validation", 2), ("test", 3)):
        for take in range(2):
            write(hub / part / f"{take}.flac", noise(number))
        metadata(hub / part, [(f"{take}.flac", f"W{number}") for take in range(2)])
    prepare(hub)
    wanted = {
        part: {
            f"{name}_{t}": (str(hub / name / f"{t}.flac"), f"W{n}", f"{name}_{t}")
            for t in range(2)
        }
        for part, name, n in (
            ("train", "train", 1),
            ("valid", "validation", 2),
            ("test", "test", 3),
        )
    }
    assert contents() == wanted
    # one file for all, the sets in the paths
    for part in ("train", "validation", "test"):
        (hub / part / f"metadata.{kind}").unlink()
    rows = [
        (f"{name}/{t}.flac", f"W{n}")
        for name, n in (("train", 1), ("validation", 2), ("test", 3))
        for t in range(2)
    ]
    metadata(hub, rows)
    prepare(hub, "--output", "one")
    assert contents("one") == wanted


# -------------------------------------------------------------------------- splits
def test_the_seed_decides_and_the_shares_are_kept(project):
    for speaker in (f"s{n:02d}" for n in range(40)):
        write(project / "many" / speaker / "0.wav", noise(1, 1600))
        (project / "many" / speaker / "0.txt").write_text("A\n")

    def sets(*words):
        output = f"out{len(list(project.glob('out*')))}"
        prepare("many", "--speaker_from", "folder", "--output", output, *words)
        return {part: sorted(rows) for part, rows in contents(output).items()}

    first = sets()
    assert [len(first[p]) for p in ("train", "valid", "test")] == [32, 4, 4]
    assert sets() == first and sets("--seed", "1") != first
    other = sets("--valid_share", "0", "--test_share", "0.25")
    assert sorted(map(len, other.values())) == [10, 30] and "valid" not in other
    assert sorted(sets("--split", "none")) == ["train"]


def test_one_speaker_is_split_by_utterance_and_told(project, capsys):
    lines = ["path,text,speaker"]
    lines += [f"{path},{number},anna" for number, (path, _, _) in enumerate(ROWS)]
    (project / "one.csv").write_text("\n".join(lines))
    prepare("one.csv")
    out = capsys.readouterr().out
    assert "split by utterance, seed 0: there is only one speaker, so the WER" in out
    sets = contents()
    assert [len(sets[p]) for p in ("train", "valid", "test")] == [8, 1, 1]
    line = refused("one.csv", "--output", "no", "--split", "speaker")
    assert "1 speakers" in line and "--split utterance" in line
    (project / "two.csv").write_text("\n".join(lines[:3]))
    assert "2 utterances: train, valid, test need one each" in refused(
        "two.csv", "--output", "no"
    )


def test_parts_of_a_recording_stay_together(project, capsys):
    lines = ["path,text,start,end"]
    for path in ("wav/anna/0.wav", "wav/ben/0.wav", "wav/cleo/0.wav"):
        lines += [f"{path},A,{n / 10},{n / 10 + 0.05}" for n in range(2)]
    (project / "cuts.csv").write_text("\n".join(lines))
    prepare("cuts.csv")
    recordings = [{k.split("-")[0] for k in rows} for rows in contents().values()]
    assert [len(part) for part in recordings] == [1, 1, 1]
    assert len(set().union(*recordings)) == 3


def test_sets_by_name_and_what_is_missing_from_train(project, capsys):
    for part, rows in (("a", ROWS[:8]), ("b", ROWS[8:])):
        lines = ["path,text,speaker"] + [f"{p},T,{s}" for p, t, s in rows]
        (project / f"{part}.csv").write_text("\n".join(lines))
    prepare("train=a.csv", "my-test=b.csv", "test=b.csv", "--output", "x")
    sets = contents("x")
    assert sorted(sets) == ["my-test", "test", "train", "valid"]
    assert speakers_of(sets["test"]) == {"eve"} and len(sets["valid"]) == 2
    assert "valid from train: split by speaker" in capsys.readouterr().out
    prepare("train=b.csv", "test=a.csv", "--output", "y", "--split", "none")
    assert sorted(contents("y")) == ["test", "train"]
    (project / "c.csv").write_text("path,text,speaker\nwav/anna/0.wav,T,eve\n")
    prepare("train=b.csv", "test=c.csv", "--output", "z", "--split", "none")
    assert "1 of the 1 speakers of test are also in train (eve)" in (
        capsys.readouterr().out
    )
    assert "all sources as SET=SOURCE" in refused("train=a.csv", "b.csv")


# --------------------------------------------------------------------------- audio
def test_any_rate_channels_and_container(project):
    stereo = np.stack([noise(1), noise(2)], axis=1)
    write(project / "mix" / "stereo.wav", stereo)
    write(project / "mix" / "slow.wav", noise(3), 8000)
    write(project / "mix" / "packed.ogg", noise(4, 22050) // 4, 22050)
    for name in ("stereo", "slow", "packed"):
        (project / "mix" / f"{name}.txt").write_text("A")
    prepare("mix", "--split", "none")
    rows = everything()
    # of one channel and in WAV: used where it is; stage 3 resamples
    assert rows["slow"][0] == str(project / "mix" / "slow.wav")
    wave, rate = soundfile.read(rows["stereo"][0], dtype="int16")
    assert rate == RATE and wave.ndim == 1
    assert np.abs(wave - stereo.mean(axis=1)).max() <= 1
    wave, rate = soundfile.read(rows["packed"][0])
    assert (rate, len(wave)) == (RATE, 16000)


def test_a_name_that_is_not_utf8(project, capsys):
    folder = os.fsencode(project / "odd")
    os.mkdir(folder)
    for name in (b"caf\xe9", "café".encode()):
        soundfile.write(os.path.join(folder, name + b".wav"), noise(len(name)), RATE)
        with open(os.path.join(folder, name + b".txt"), "w") as file:
            file.write("A")
    prepare("odd", "--split", "none")
    rows = everything()
    assert sorted(rows) == ["caf%E9", "café"]
    wave, _ = soundfile.read(rows["caf%E9"][0], dtype="int16")
    assert np.array_equal(wave, noise(4))
    assert rows["café"][0] == str(project / "odd" / "café.wav")
    # its text is missing: it is named, escaped
    os.remove(os.path.join(folder, b"caf\xe9.txt"))
    assert "caf\\xe9.wav: no transcript" in refused("odd", "--output", "other")


def test_names_of_two_lines_and_linked_folders(project):
    (project / "in").mkdir()
    (project / "in" / "linked").symlink_to(project / "wav" / "anna")
    for name in ("in/two\nlines", "wav/anna/0", "wav/anna/1"):
        write(project / f"{name}.wav", noise(0))
        (project / f"{name}.txt").write_text("A")
    prepare("in", "--split", "none")
    assert set(read_scp("data/train/text")) == {"linked_0", "linked_1", "two_lines"}
    assert read_scp("data/train/wav.scp")["two_lines"].endswith("/two_lines.flac")
    (project / "in" / "two\nlines.wav").write_text("no audio")
    assert "in/two\\nlines.wav: a recording" in refused("in", "--overwrite", "true")


def test_pipes_run_only_when_asked(project, capsys):
    lines = kaldi_lines(project)
    lines["wav.scp"][0] = "anna-0 cat 'wav/anna/0.wav' |"
    lines["wav.scp"][1] = "anna-1 echo no >&2; exit 3 |"
    folder = write_kaldi(project / "kaldi", lines)
    line = refused(folder, "--split", "none")
    assert "wav.scp:1: a command instead of a file" in line and "--run_pipes" in line
    line = refused(folder, "--split", "none", "--run_pipes", "true")
    assert "wav.scp:2" in line and "status 3: no" in line
    assert not Path("data/train").exists()
    words = ["--split", "none", "--run_pipes", "true", "--skip_bad", "true"]
    prepare(folder, *words)
    rows = everything()
    assert len(rows) == 9 and "anna-1" not in rows
    assert rows["anna-0"][0] == str(project / "data" / "train" / "audio/anna-0.flac")
    wave, _ = soundfile.read(rows["anna-0"][0], dtype="int16")
    assert np.array_equal(wave, noise(0))

    # what the command writes may change while the command does not
    (project / "wav" / "anna" / "1.wav").replace(project / "wav" / "anna" / "0.wav")
    prepare(folder, *words)
    assert "--overwrite true runs the commands again" in capsys.readouterr().out
    prepare(folder, *words, "--overwrite", "true")
    wave, _ = soundfile.read(rows["anna-0"][0], dtype="int16")
    assert np.array_equal(wave, noise(1))


def test_a_command_without_an_end_is_stopped(project, monkeypatch):
    monkeypatch.setattr(audio, "MOST_PIPED", 2**22)
    lines = kaldi_lines(project)
    lines["wav.scp"][0] = "anna-0 cat /dev/zero | cat |"
    folder = write_kaldi(project / "kaldi", lines)
    line = refused(folder, "--split", "none", "--run_pipes", "true")
    assert "wav.scp:1: a recording that cannot be used: cat /dev/zero | cat: " in line
    assert "perhaps without an end; give an audio file" in line


# ------------------------------------------------------------------------ what is bad
BAD_ROWS = [
    ("wav/none.wav,A,0,1", "no such file: wav/none.wav"),
    ("wav/anna,A,,", "a folder instead of a file"),
    (",A,,", "no path"),
    ("wav/anna/0.wav,,,", "no transcript"),
    ("wav/anna/0.wav,A,x,", "not a time: start 'x'"),
    ("wav/anna/0.wav,A,0.2,0.1", "end before start: from 0.2 to 0.1 s"),
    ("wav/anna/0.wav,A,0,9", "a part beyond the recording's end: 0 to 9 s"),
    ("wav/anna/0.wav,A,0.1,0.10001", "an empty part: 0.1 to 0.10001 has no sample"),
    ("wav/anna/0.wav,A,0.24998,", "an empty part: 0.24998 to the end has no sample"),
    ("wav/anna/0.wav,A,B,,", "wrong number of columns: 5 instead of 4"),
    ("wav/ben/0.wav,A,,", "an id that occurs twice: wav_ben_0, first in rows.csv:2"),
    ("wav/empty.wav,A,,", "a recording that cannot be used"),
    ("wav/text.wav,A,,", "a recording that cannot be used"),
]


@pytest.mark.parametrize("row, words", BAD_ROWS)
def test_a_bad_row_is_named_and_can_be_left_out(project, capsys, row, words):
    write(project / "wav" / "empty.wav", noise(0, 0))
    (project / "wav" / "text.wav").write_text("no audio")
    good = ["wav/ben/0.wav,A,,", "wav/ben/1.wav,A,,", "wav/cleo/0.wav,A,,"]
    lines = ["path,text,start,end", *good[:2], row, good[2]]
    (project / "rows.csv").write_text("\n".join(lines) + "\n")
    line = refused("rows.csv")
    assert f"1 of 4 entries cannot be used; the first: rows.csv:4: {words}" in line
    assert "--skip_bad true" in line
    assert (project / "data" / "unusable.txt").read_text().startswith("rows.csv:4: ")
    assert [p.name for p in Path("data").glob("[!.]*")] == ["unusable.txt"]
    prepare("rows.csv", "--skip_bad", "true")
    rows = everything()
    assert sorted(rows) == ["wav_ben_0", "wav_ben_1", "wav_cleo_0"]
    assert "left out: 1 x " in capsys.readouterr().out
    listed = [p.read_text() for p in Path("data").glob("*/excluded.txt")]
    assert len(listed) == 1 and "\trows.csv:4\t" in listed[0]
    assert not (project / "data" / "unusable.txt").exists()


@pytest.mark.parametrize(
    "content, words",
    [
        (b"wav/anna/0.wav,hello\n", "t.csv:1: no column for the path: begin the file"),
        (b"path,words\na,b\n", "t.csv:1: no column for the text"),
        (b"path,file,text\n", "columns 'path' and 'file' could both be the path"),
        (b"path,text\nx,caf\xe9\n", "t.csv:2: not UTF-8"),
        (b'path,text\nx,"a\ny,b\n', "t.csv:2: not CSV"),
        (b"path,text\n", "no rows below the header"),
        (b"", "the file is empty"),
        (b"\npath,text\n", "t.csv:1: no column for the path: begin the file"),
        (b"path,text" + 2**17 * b"x", "t.csv:1: not CSV (field larger than"),
    ],
)
def test_a_table_that_cannot_be_used(project, content, words):
    (project / "t.csv").write_bytes(content)
    assert words in refused("t.csv")
    assert not Path("data").exists()


def test_tables_as_spreadsheets_save_them(project):
    rows = "".join(f"{path};{text};{speaker}\r\n" for path, text, speaker in ROWS)
    content = "path;text;speaker\r\n" + rows
    for number, saved in enumerate(
        (
            content.encode("utf-16"),
            content.encode("utf-16-le"),
            b"sep=;\r\n" + content.encode(),
        )
    ):
        (project / "t.csv").write_bytes(saved)
        prepare("t.csv", "--output", f"data{number}")
        texts = [
            read_scp(path) for path in sorted(Path(f"data{number}").glob("*/text"))
        ]
        assert sorted(sum((list(t.values()) for t in texts), [])) == sorted(
            clean(text) for _, text, _ in ROWS
        )
    (project / "t.csv").write_text(f"sep=;\npath;text\n{ROWS[0][0]};A\nx.wav\n")
    assert "t.csv:4: wrong number of columns" in refused("t.csv", "--output", "x")
    (project / "t.csv").write_text("sep=;\n")
    assert "the file is empty" in refused("t.csv", "--output", "x")


def test_the_first_bad_row_is_that_of_the_table(project):
    rows = [f"wav/anna/{name}.wav,A\n" for name in "z0y1x"]
    for name in "xyz":
        (project / "wav" / "anna" / f"{name}.wav").write_text("no audio")
    (project / "t.csv").write_text("path,text\n" + "".join(rows))
    assert "3 of 5 entries cannot be used; the first: t.csv:2: " in refused("t.csv")
    listed = Path("data/unusable.txt").read_text().splitlines()
    assert [line.split(":")[1] for line in listed] == ["2", "4", "6"]


def test_columns_can_be_named(project):
    (project / "t.csv").write_text("wo,was\nwav/anna/0.wav,A\n")
    assert "no column 'wer'" in refused("t.csv", "--columns", "path=wer", "text=was")
    prepare("t.csv", "--columns", "path=wo", "text=was", "--split", "none")
    assert everything()["wav_anna_0"][1] == "A"
    assert "write ROLE=NAME" in refused("t.csv", "--columns", "wo")
    kaldi = write_kaldi(project / "kaldi", kaldi_lines(project))
    line = refused(kaldi, "--columns", "text=was")
    assert "--columns is for tables; found: Kaldi folder; omit it" in line


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"path": "wav/anna/0.wav"', "j.jsonl:2: not JSON"),
        ('["a"]', "j.jsonl:2: not a JSON object"),
        ('{"path": "wav/anna/0.wav", "text": null}', "j.jsonl:2: no transcript"),
        ('{"path": "wav/anna/0.wav", "text": NaN}', "j.jsonl:2: no transcript"),
        ("[" * 200_000, "j.jsonl:2: not JSON: too many brackets in each other"),
        ('{"path": ' + 5000 * "1" + "}", "j.jsonl:2: not JSON: a number is too long"),
    ],
)
def test_bad_json_lines(project, line, words):
    good = '{"path": "wav/ben/0.wav", "text": "A"}'
    (project / "j.jsonl").write_text(f"{good}\n{line}\n")
    assert words in refused("j.jsonl", "--split", "none")


@pytest.mark.parametrize(
    "content, words",
    [
        ("[" * 200_000, "j.json:1: not JSON (too many brackets in each other)"),
        ("[" + 5000 * "1" + "]", "j.json:1: not JSON (a number is too long)"),
        ('[{"path":\n]', "j.json:2: not JSON (Expecting value)"),
    ],
)
def test_a_bad_json_list(project, content, words):
    (project / "j.json").write_text(content)
    assert words in refused("j.json", "--split", "none")


@pytest.mark.parametrize("value, shown", [(r"a\ud83d", "ud83d"), (r"\u0000b", "x00")])
@pytest.mark.parametrize("role", ["text", "id", "speaker", "path"])
def test_json_strings_that_are_no_text(project, role, value, shown):
    """Half of an emoji, a zero byte: named before anything is written."""
    rows = [{"path": p, "text": t, "speaker": s, "id": s} for p, t, s in ROWS[::2]]
    rows[3][role] = "BAD"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    Path("j.jsonl").write_text(lines.replace("BAD", value))
    kind = f"a character that is no text: {role} has '"
    line = refused("j.jsonl")
    assert f"j.jsonl:4: {'no such file' if role == 'path' else kind}" in line
    assert f"\\{shown}" in line and not Path("data/train").exists()
    prepare("j.jsonl", "--skip_bad", "true")
    assert speakers_of(everything()) == set(SPEAKERS) - {"dan"}
    (listed,) = Path("data").glob("*/excluded.txt")
    assert f"\\{shown}" in listed.read_text(encoding="utf-8")


def test_a_zero_byte_in_a_txt_file(project):
    (project / "wav" / "anna" / "0.txt").write_bytes(b"AB\0C\n")
    (project / "wav" / "anna" / "1.txt").write_text("A")
    line = refused("wav/anna", "--split", "none")
    assert "wav/anna/0.wav: a character that is no text: text has '\\x00'" in line


def test_values_that_are_missing_in_pandas_tables(project):
    row = '{"path": "wav/anna/0.wav", "text": "A", "speaker": NaN, "start": NaN}'
    (project / "j.jsonl").write_text(row + "\n")
    prepare("j.jsonl", "--split", "none")
    assert everything() == {
        "wav_anna_0": (str(project / ROWS[0][0]), "A", "wav_anna_0")
    }


@pytest.mark.parametrize(
    "name, line, words",
    [
        ("wav.scp", "x-1 wav/anna/0.wav", "wav.scp:11: no transcript: x-1 is not in"),
        ("text", "x-1 A", "text:11: no recording: x-1 is not in wav.scp"),
        ("text", "anna-0 A", "text:11: malformed line: the id anna-0 occurs twice"),
        ("wav.scp", "x-1", "wav.scp:11: malformed line: nothing after the id 'x-1'"),
        ("utt2spk", " x", "utt2spk:11: malformed line: the line begins with white"),
    ],
)
def test_bad_kaldi_lines(project, name, line, words):
    lines = kaldi_lines(project)
    lines[name].append(line)
    assert words in refused(write_kaldi(project / "kaldi", lines))


def test_bad_segments(project):
    lines = kaldi_lines(project)
    lines["segments"] = ["a-1 anna-0 0 0.1", "a-2 nobody 0 1", "a-3 anna-0 0"]
    lines["text"] = ["a-1 A", "a-2 A", "a-3 A"]
    line = refused(write_kaldi(project / "kaldi", lines))
    assert "2 of 3 entries" in line and "nobody is not in wav.scp" in line
    listed = (project / "data" / "unusable.txt").read_text()
    assert "write ID RECORDING START END" in listed


def test_folders_that_are_no_corpus(project):
    assert "10 recordings, none with a .txt of the same name" in refused("wav")
    (project / "nothing").mkdir()
    assert "no recordings (" in refused("nothing")
    assert "no such file or folder" in refused("none")
    (project / "notes.docx").write_text("x")
    assert "give a table (.csv, .tsv, .jsonl) or a folder" in refused("notes.docx")
    for name in ("0.txt", "2.txt"):
        (project / "wav" / "anna" / name).write_bytes(b"caf\xe9 \n")
    line = refused("wav")
    assert "anna/0.txt:1: unreadable transcript: not UTF-8" in line
    listed = (project / "data" / "unusable.txt").read_text()
    assert "wav/anna/2.txt: no recording" in listed
    assert "wav/anna/1.wav: no transcript: no .txt of the same name" in listed


# -------------------------------------------------------------------- what is there
def test_a_second_run_and_other_content(project, capsys):
    lines = ["path,text,speaker"] + [f"{p},T,{s}" for p, t, s in ROWS]
    (project / "a.csv").write_text("\n".join(lines[:-1]))
    (project / "b.csv").write_text("\n".join(lines))
    prepare("a.csv")
    before = {p: p.stat().st_mtime_ns for p in Path("data").rglob("*")}
    capsys.readouterr()
    prepare("a.csv")
    assert {p: p.stat().st_mtime_ns for p in Path("data").rglob("*")} == before
    assert capsys.readouterr().out.count("prepared before, unchanged") == 3
    # the same source with one more row
    (project / "a.csv").write_text("\n".join(lines))
    prepare("a.csv")
    assert "replaces an earlier version" in capsys.readouterr().out
    assert len(everything()) == 10
    # another source
    line = refused("b.csv")
    assert "data/train exists and was made from" in line and "a.csv" in line
    # changed by hand
    with open("data/valid/text", "a") as file:
        file.write("more\n")
    assert "data/valid exists and was changed by hand" in refused("a.csv")
    prepare("a.csv", "--overwrite", "true")
    assert len(everything()) == 10
    # of someone else
    Path("mine/train").mkdir(parents=True)
    Path("mine/train/text").write_text("x y\n")
    assert "was not made by this command" in refused("b.csv", "--output", "mine")
    assert Path("mine/train/text").read_text() == "x y\n"


def test_an_output_in_the_folder_of_the_recordings(project, capsys):
    """What an earlier call wrote is not read, neither its list nor its FLAC files."""
    for path, text, _ in ROWS:
        write(project / path, np.stack([noise(1), noise(1)], axis=1))
        (project / path).with_suffix(".txt").write_text(text)
    last = (project / ROWS[-1][0]).with_suffix(".txt")
    words = last.read_text()
    last.unlink()
    for _ in range(2):
        line = refused(".")
        assert "1 of 10 entries cannot be used; the first: wav/eve/1.wav: no tr" in line
    last.write_text(words)
    prepare(".")
    before = everything()
    assert len(before) == 10
    capsys.readouterr()
    prepare(".")
    assert capsys.readouterr().out.count("prepared before, unchanged") == 3
    assert everything() == before
    # what the user put there is read
    write(project / "data" / "more" / "x.wav", noise(2))
    (project / "data" / "more" / "x.txt").write_text("MORE")
    prepare(".")
    tables = [read_scp(path) for path in Path("data").glob("*/text")]
    assert {key for table in tables for key in table} == {*before, "data_more_x"}


def test_a_set_that_is_a_link_to_a_folder(project, monkeypatch):
    """On a larger disk, to which files cannot be renamed; the link stays."""
    rows = [f"{p},T {p},{s}" for p, _, s in ROWS]
    for path, _, _ in ROWS:  # stereo: written as FLAC of one channel
        write(project / path, np.stack([noise(1), noise(1)], axis=1))
    Path("t.csv").write_text("\n".join(["path,text,speaker", *rows[:-1]]))
    prepare("t.csv", "--split", "none")
    Path("big").mkdir()
    Path("data/train").rename("big/train")
    Path("data/train").symlink_to("../big/train")
    replace = os.replace

    def on_two_disks(old, new):
        disks = ["big" in Path(os.path.realpath(path)).parts for path in (old, new)]
        if disks[0] != disks[1]:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), old, None, new)
        replace(old, new)

    monkeypatch.setattr(os, "replace", on_two_disks)
    Path("t.csv").write_text("\n".join(["path,text,speaker", *rows]))
    prepare("t.csv", "--split", "none")
    assert os.readlink("data/train") == "../big/train"
    assert [p.name for p in Path("big").iterdir()] == ["train"]
    assert [p.name for p in Path("data").iterdir()] == ["train"]
    made = contents()["train"]
    assert {text for _, text, _ in made.values()} == {f"T {p}" for p, _, _ in ROWS}
    for path, _, _ in made.values():
        assert Path(path).parent == project / "big" / "train" / "audio"
        assert np.array_equal(soundfile.read(path, dtype="int16")[0], noise(1))


def test_a_source_is_never_replaced(project):
    write_kaldi(project / "data" / "train", kaldi_lines(project))
    words = ["--overwrite", "true"]
    assert "would be overwritten by data/train" in refused("data/train", *words)
    (project / "a.csv").write_text("path,text\ndata/valid/x.wav,A\n")
    write(project / "data" / "valid" / "x.wav", noise(0))
    assert "would be overwritten by data/valid" in refused("valid=a.csv", *words)
    assert (project / "data" / "valid" / "x.wav").exists()


def test_an_interruption_leaves_what_was_there(project, monkeypatch):
    lines = ["path,text,speaker"] + [f"{p},T,{s}" for p, t, s in ROWS]
    (project / "a.csv").write_text("\n".join(lines[:-1]))
    prepare("a.csv")
    before = contents()
    (project / "a.csv").write_text("\n".join(lines))

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("espnet_adastride.corpora.own.audio.check_recording", stop)
    with pytest.raises(SystemExit):
        prepare("a.csv")
    assert contents() == before
    names = sorted(p.name for p in Path("data").glob("[!.]*"))
    assert names == ["test", "train", "valid"]


def test_after_an_interruption_and_a_correction_it_goes_on(project, monkeypatch):
    names = ["one", "two", "three"]
    for at, name in enumerate(names):
        write(
            project / "mix" / f"{name}.wav",
            np.stack([noise(at, 8000), noise(9, 8000)], axis=1),
        )
    table = "path,text,start,end\n" + "".join(f"mix/{n}.wav,A,0,0.3\n" for n in names)
    (project / "a.csv").write_text(
        table.replace("three.wav,A,0,0.3", "three.wav,A,0,99")
    )
    checked, stock = [], own_audio.check_recording
    stop_at = ["two.wav"]

    def check(path, *args):
        name = Path(path).name
        if name in stop_at:
            raise KeyboardInterrupt
        checked.append(name)
        return stock(path, *args)

    monkeypatch.setattr(own_audio, "check_recording", check)
    words = ("a.csv", "--split", "none", "--nj", "1")
    with pytest.raises(SystemExit):
        prepare(*words)
    assert "one.wav" in checked
    stop_at.clear()
    checked.clear()
    assert "0 to 99 s" in refused(*words)
    assert sorted(checked) == ["three.wav", "two.wav"]  # the first is done
    checked.clear()
    (project / "a.csv").write_text(table)
    prepare(*words)
    assert checked == ["three.wav"]
    rows = everything()
    for name in names:
        path = next(p for key, (p, *_) in rows.items() if name in key)
        assert soundfile.info(path).frames == round(0.3 * RATE)
    assert sorted(p.name for p in Path("data").iterdir()) == ["train"]
    # a recording that has changed is read again
    with pytest.raises(SystemExit):
        (project / "a.csv").write_text(table.replace("0,0.3", "0,0.2"))
        stop_at.append("two.wav")
        prepare(*words)
    stop_at.clear()
    checked.clear()
    write(project / "mix" / "one.wav", np.stack([noise(5), noise(6)], axis=1))
    prepare(*words)
    assert sorted(checked) == ["one.wav", "two.wav"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--valid_share", "1"], "leave nothing for training"),
        (["--valid_share", ".5", "--test_share", ".5"], "leave nothing for training"),
        (["--speaker_from", "("], "not a valid regular expression"),
        (["--speaker_from", "[a-z]"], "one pair of parentheses"),
        (["--audio_dir", "none"], "--audio_dir none: no such folder"),
        (["--fs", "fast"], "--fs fast: give a sampling rate"),
        (["--fs", "1e99"], "--fs 1e99: give a sampling rate from 100 to 1000000"),
    ],
)
def test_options_that_make_no_sense(project, words, message):
    assert message in refused("wav", *words)


@pytest.mark.parametrize(
    "word, seconds",
    [("1.5", 1.5), ("1,5", 1.5), ("2", 2), ("1:02.5", 62.5), ("1:00:01", 3601)],
)
def test_times(word, seconds):
    assert parse_time(word) == seconds
    assert clean(" a\tb \u00a0c\n") == "a b c"


@pytest.mark.parametrize("word", ["", "-1", "1:2:3:4", "x", "1.2.3", "nan", "inf"])
def test_what_is_no_time(word):
    with pytest.raises(ValueError):
        parse_time(word)


def test_names_that_begin_with_a_tilde(project):
    path = "wav/anna/0.wav"
    Path(path).rename("~tmp.wav")
    Path("a.csv").write_text("path,text\n~tmp.wav,A\n~nobody/x.wav,A\n")
    assert "a.csv:3: no such file: ~nobody/x.wav" in refused("a.csv")
    Path("a.csv").write_text("path,text\n~tmp.wav,A\n")
    prepare("a.csv", "--split", "none")
    assert everything()["~tmp"][0] == str(project / "~tmp.wav")


def test_the_home_folder_after_an_equals_sign(project, monkeypatch):
    monkeypatch.setenv("HOME", str(project / "home"))
    write(project / "home" / "0.wav", noise(0))
    table = "path,text\n0.wav,A\n"
    (project / "home" / "a.csv").write_text(table)
    prepare("train=~/a.csv", "--output=~/out", "--split", "none")
    assert everything("home/out").keys() == {"0"}
    assert not Path("~").exists()
    Path("~a.csv").write_text(table.replace("0", "home/0"))  # no user's name
    prepare("train=~a.csv", "--split", "none")
    assert len(everything()) == 1


def test_speakers_that_no_path_has(project, capsys):
    rows = ["path,text", *(f"{path},T" for path, _, _ in ROWS)]
    Path("a.csv").write_text("\n".join(rows))
    line = refused("a.csv", "--speaker_from", "speaker_([0-9]+)")
    assert "--speaker_from speaker_([0-9]+): no path has such a part; the first" in line
    assert "is wav/anna/0.wav; correct or omit it" in line
    Path("wav/anna/0.wav").rename("0.wav")
    Path("b.csv").write_text("path,text\n0.wav,T\n")
    line = refused("b.csv", "--speaker_from", "folder")
    assert "--speaker_from folder: no path has a sub-folder; the first is 0.wav" in line
    Path("a.csv").write_text("\n".join(["path,text", "0.wav,T", *rows[2:]]))
    prepare("a.csv", "--speaker_from", "wav/([a-z]+)/", "--split", "none")
    said = capsys.readouterr().out
    assert "a.csv: --speaker_from finds no speaker in 1 path (0.wav)" in said


def test_pipes_and_devices_are_not_read(project):
    os.mkfifo("pipe.wav")
    os.mkfifo("pipe")
    for place in ("pipe", "pipe.wav", "/dev/null"):
        assert (
            f"{place}: is a pipe or a device; save its content to a file first"
            in refused(place)
        )
    Path("a.csv").write_text("path,text\npipe.wav,A\n/dev/zero,A\n")
    assert "a.csv:2: a pipe or a device instead of a file: " in refused("a.csv")
    assert "a.csv:3: a pipe or a device" in Path("data/unusable.txt").read_text()


def test_the_next_command_can_be_copied(project, capsys):
    Path("a.csv").write_text(
        "\n".join(["path,text,speaker", *(f"{p},T,{s}" for p, _, s in ROWS)])
    )
    place = project / "my $(touch x) folder"
    prepare("a.csv", "--output", place / "data")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"next: cd {shlex.quote(str(place))}; ")


def test_a_name_that_is_too_long_for_the_disk(project):
    write_kaldi(project / "kaldi", kaldi_lines(project))
    line = refused(f"{'x' * 300}=kaldi", "--split", "none")
    assert "its name is too long for the disk: give a shorter one" in line


def test_a_command_does_not_read_what_is_typed(project, monkeypatch):
    lines = kaldi_lines(project)
    lines["wav.scp"][0] = "anna-0 cat; cat 'wav/anna/0.wav' |"
    folder = write_kaldi(project / "kaldi", lines)
    typed, writer = os.pipe()
    os.write(writer, b"the next lines of a script")
    before = os.dup(0)
    try:
        os.dup2(typed, 0)
        os.close(writer)
        prepare(folder, "--split", "none", "--run_pipes", "true")
        assert os.read(0, 100) == b"the next lines of a script"
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(typed)


def test_every_recording_is_decoded_once(project, monkeypatch):
    opened = []
    stock = audio._opened

    def counted(path, name):
        opened.append(path)
        return stock(path, name)

    monkeypatch.setattr(audio, "_opened", counted)
    Path("a.csv").write_text("path,text\nwav/anna/0.wav,A\nwav/ben/0.wav,B\n")
    prepare("a.csv", "--split", "none")
    assert len(opened) == 2


def test_sets_of_an_earlier_command_are_named(project, capsys):
    rows = [f"{p},T,{s}" for p, t, s in ROWS]
    Path("a.csv").write_text("\n".join(["path,text,speaker", *rows]))
    prepare("a.csv")
    assert "note: " not in capsys.readouterr().out
    for _ in range(2):  # also if nothing is left to do
        prepare("a.csv", "--test_share", "0")
        notes = [x for x in capsys.readouterr().out.splitlines() if "note: " in x]
        assert len(notes) == 1 and "note: data/test is from an earlier" in notes[0]


def test_a_set_without_a_usable_entry_is_not_taken_from_another(project):
    rows = [f"{p},T,{s}" for p, t, s in ROWS]
    Path("a.csv").write_text("\n".join(["path,text,speaker", *rows]))
    Path("b.csv").write_text("path,text\nx.wav,A\ny.wav,A\n")
    Path("c.csv").write_text("path,text\nwav/bad.wav,A\n")
    Path("wav/bad.wav").write_text("no audio")
    for other, count in (("b", 2), ("c", 1)):
        line = refused("train=a.csv", f"test={other}.csv", "--skip_bad", "true")
        assert f"test: none of its {count} entries can be used; the first: " in line
        assert f"{other}.csv:2" in line and "or leave out the set" in line
        assert not Path("data/test").exists()


@pytest.mark.parametrize(
    "content, words",
    [
        ("path,text,set\nwav/anna/0.wav,A,..\n", "no name of a set: '..'"),
        ("path,text,text\nwav/anna/0.wav,A,B\n", "two columns are called 'text'"),
        ("path,text,Text\nwav/anna/0.wav,A,B\n", "'text' and 'Text' could both be"),
        ("path,text,start\nwav/anna/0.wav,A,1e999\n", "not a time: start '1e999'"),
    ],
)
def test_tables_that_say_two_things_or_none(project, content, words):
    Path("t.csv").write_text(content)
    assert words in refused("t.csv", "--split", "none")


def test_a_path_without_a_name(project):
    Path("hf").mkdir()
    Path("hf/metadata.csv").write_text("file_name,text\n.,A\n")
    assert "hf/metadata.csv:2: a folder instead of a file" in refused("hf")


def test_lists_are_no_texts(project):
    row = {"path": {"path": "wav/anna/0.wav"}, "text": ["A", "B"]}
    Path("a.jsonl").write_text(json.dumps(row) + "\n")
    assert "a.jsonl:1: no transcript" in refused("a.jsonl")


def test_sets_of_different_layouts(project):
    Path("mix/train").mkdir(parents=True)
    rows = [f"{project}/{p},T,{s}" for p, t, s in ROWS[:4]]
    Path("mix/train/metadata.csv").write_text("\n".join(["path,text,speaker", *rows]))
    lines = {name: own[4:] for name, own in kaldi_lines(project).items()}
    write_kaldi(project / "mix" / "valid", lines)
    prepare("mix", "--split", "none")
    assert len(contents()["train"]) == 4


def test_empty_names_and_a_file_in_the_way(project):
    """An empty name, as of an unset variable, is not the current folder."""
    table = project / "table.csv"
    table.write_text("path,text\nwav/ann/0.wav,A\n")
    before = sorted(project.rglob("*"))
    for words, said in (
        ([""], "[SET=]SOURCE is empty; check for an unset variable"),
        (["train="], "source train= is empty; check for an unset variable"),
        (["table.csv", "--output", ""], "--output is empty; check for an unset"),
        (["table.csv", "--output", "table.csv"], "table.csv is not a folder; move it"),
    ):
        assert said in refused(*words)
    assert sorted(project.rglob("*")) == before
