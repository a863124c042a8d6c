"""Connected digits: who is in which part, and what an utterance is made of."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin.prepare_digits import main
from espnet_adastride.corpora.digits import (
    FADE,
    FS,
    PARTS,
    SILENCES,
    WORDS,
    DigitSequence,
    build_digits,
    find_recordings,
    plan_digits,
    speak,
)
from espnet_adastride.corpora.kaldi import read_scp
from espnet_adastride.errors import UserError
from espnet_adastride.timing.transcripts import read_ctm

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--train_minutes 0.5 --dev_utterances 4 --test_utterances 7 --test_speakers bea "
    "--dev_takes 1"
).split()


def add_recording(folder, digit, speaker, take, rate=FS):
    """A tone per digit, of a length of its own."""
    samples = 300 + 10 * digit + take
    wave = 0.3 * np.sin(0.2 * (digit + 1) * np.arange(samples))
    path = folder / f"{digit}_{speaker}_{take}.wav"
    soundfile.write(path, wave, rate, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "recordings"
    folder.mkdir()
    for speaker in ("ann", "bea", "cy"):
        for take in range(4):
            for digit in range(10):
                add_recording(folder, digit, speaker, take)
    return folder.parent


@pytest.fixture
def fsdd(made_once, tmp_path):
    return Path(shutil.copytree(made_once, tmp_path / "my fsdd"))


def prepare(fsdd, place, *options):
    main(
        ["--corpus", str(fsdd), "--output", str(place / "data")]
        + ["--audio", str(place / "audio"), *SMALL, *options]
    )


@pytest.fixture(scope="module")
def prepared(made_once, tmp_path_factory):
    place = tmp_path_factory.mktemp("prepared")
    prepare(made_once, place)
    return place


def made_of(data_dir):
    """{utterance: (names of recordings, samples of silence)} of a data directory."""
    table = {}
    for key, line in read_scp(data_dir / "utt2recordings").items():
        words = line.split()
        table[key] = words[1::2], [int(w) for w in words[::2]]
    return table


# ---------------------------------------------------------------------------- the parts


def test_no_part_shares_a_recording_and_the_test_shares_no_speaker(prepared):
    used, voices = {}, {}
    for part in PARTS:
        names = [
            n for names, _ in made_of(prepared / "data" / part).values() for n in names
        ]
        used[part], voices[part] = set(names), {n.split("_")[1] for n in names}
    assert not used["train"] & used["dev"]
    assert voices == {"train": {"ann", "cy"}, "dev": {"ann", "cy"}, "test": {"bea"}}
    assert {n.split("_")[2] for n in used["dev"]} == {"0"}
    assert {n.split("_")[2] for n in used["train"]} == {"1", "2", "3"}


def test_groups_of_the_test_share_no_recording(prepared):
    groups = {}
    for key, (names, _) in made_of(prepared / "data" / "test").items():
        groups.setdefault(key.rsplit("-", 1)[0], set()).update(names)
    assert set(groups) == {"bea-00", "bea-01"}
    assert not groups["bea-00"] & groups["bea-01"]
    speakers = read_scp(prepared / "data" / "test" / "utt2spk")
    assert all(key.rsplit("-", 1)[0] == group for key, group in speakers.items())


def test_parts_are_as_long_as_asked_for(prepared):
    sets = {p: read_scp(prepared / "data" / p / "utt2num_samples") for p in PARTS}
    assert len(sets["dev"]) == 4 and len(sets["test"]) == 7
    lengths = [int(samples) for samples in sets["train"].values()]
    assert 30 * FS <= sum(lengths) < 30 * FS + max(lengths)


def test_recordings_are_used_equally_often_and_never_twice_in_an_utterance(made_once):
    plan = plan_digits(
        find_recordings(made_once),
        train_minutes=3,
        dev_utterances=20,
        test_utterances=40,
        test_speakers=["bea"],
        dev_takes=1,
    )
    for part in PARTS:
        for speaker in {s.speaker for s in plan[part]}:
            sequences = [s for s in plan[part] if s.speaker == speaker]
            counts = Counter(r.name for s in sequences for r in s.recordings)
            assert max(counts.values()) - min(counts.values()) <= 1
            assert all(len(set(s.recordings)) == len(s.recordings) for s in sequences)
    lengths = Counter(len(s.recordings) for s in plan["train"])
    assert set(lengths) == set(range(3, 9))


def test_parts_share_no_recording_and_the_test_no_speaker(made_once):
    plan = plan_digits(
        find_recordings(made_once), 0, 0.5, 4, 7, test_speakers=["bea"], dev_takes=1
    )
    used = {part: {r for s in plan[part] for r in s.recordings} for part in PARTS}
    assert not used["train"] & used["dev"]
    assert {r.speaker for r in used["test"]} == {"bea"}
    assert "bea" not in {r.speaker for r in used["train"] | used["dev"]}


# ------------------------------------------------------------------------ an utterance


def test_text_is_what_was_put_together(prepared, made_once):
    for part in PARTS:
        recordings = made_of(prepared / "data" / part)
        times = read_ctm(prepared / "data" / part / "words.ctm")
        texts = read_scp(prepared / "data" / part / "text")
        samples = read_scp(prepared / "data" / part / "utt2num_samples")
        for key, path in read_scp(prepared / "data" / part / "wav.scp").items():
            names, silences = recordings[key]
            words = texts[key].split()
            assert words == [WORDS[int(n[0])] for n in names]
            wave, rate = soundfile.read(path)
            assert rate == FS
            start, edge = silences[0], round(FADE * FS)
            assert [w.text for w in times[key]] == words
            for name, silence, word in zip(names, silences[1:], times[key]):
                speech, _ = soundfile.read(made_once / "recordings" / f"{name}.wav")
                piece = wave[start : start + len(speech)]
                inner = slice(edge, -edge)
                # the hiss alone differs: at most -55 dB
                assert np.abs(piece[inner] - speech[inner]).max() < 0.01
                assert word.start == pytest.approx(start / FS, abs=0.0006)
                start += len(speech)
                assert word.end == pytest.approx(start / FS, abs=0.0006)
                assert np.abs(wave[start : start + silence]).max() < 0.01
                start += silence
            assert start == len(wave) == int(samples[key])


def test_silences_lie_in_their_bounds_and_are_not_digital(prepared):
    data = prepared / "data" / "train"
    recordings = made_of(data)
    silences = [s for _, gaps in recordings.values() for s in gaps]
    assert min(silences) >= SILENCES[0] * FS and max(silences) <= SILENCES[1] * FS
    assert len(set(silences)) > len(silences) / 2
    key, path = next(iter(read_scp(data / "wav.scp").items()))
    wave, _ = soundfile.read(path)
    rms = np.sqrt(np.mean(wave[: recordings[key][1][0]] ** 2))
    assert 10 ** (-65 / 20) * 0.8 < rms < 10 ** (-55 / 20) * 1.2


def test_no_click_where_a_recording_begins(made_once):
    recordings = find_recordings(made_once)[:3]
    sequence = DigitSequence("x", "x", tuple(recordings), (100, 100, 100, 100), -120, 0)
    wave = speak(sequence) / 32767
    assert np.abs(np.diff(wave[:110])).max() < 0.02


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "wav.scp"
    }


def test_the_same_seed_gives_the_same_bytes_and_another_others(
    prepared, made_once, tmp_path
):
    prepare(made_once, tmp_path / "same")
    prepare(made_once, tmp_path / "other", "--seed", "1")
    assert digests(tmp_path / "same") == digests(prepared)
    assert digests(tmp_path / "other") != digests(prepared)
    # once more in the same place: nothing is left of what was there
    prepare(made_once, tmp_path / "other")
    assert digests(tmp_path / "other") == digests(prepared)


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("inside", ["recordings", "."])
def test_the_data_set_is_found_by_any_of_its_folders(made_once, inside):
    assert len(find_recordings(made_once / inside)) == 120
    assert len(find_recordings(made_once.parent)) == 120


def wrong_name(folder):
    (folder / "0_ann_0.wav").rename(folder / "zero_ann_0.wav")


def text_file(folder):
    (folder / "0_ann_0.wav").write_text("<html>")


def cut(folder):
    path = folder / "0_ann_0.wav"
    path.write_bytes(path.read_bytes()[:20])


def fast(folder):
    add_recording(folder, 0, "ann", 0, rate=16000)


def twice(folder):
    shutil.copy(folder / "0_ann_1.wav", folder / "0_ann_01.wav")


def few(folder):
    for path in folder.glob("*_ann_*.wav"):
        if not path.name.startswith("7"):
            path.unlink()


def nothing(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def gone(folder):
    shutil.rmtree(folder.parent)


def test_sets_are_not_empty(fsdd, tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare(fsdd, tmp_path / "out", "--test_utterances", "0")
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--test_utterances: '0': give a whole number, 1 or more" in line


@pytest.mark.parametrize(
    "damage, options, words",
    [
        (wrong_name, [], "zero_ann_0.wav: the name is not DIGIT_SPEAKER_NUMBER.wav"),
        (text_file, [], "0_ann_0.wav: recording that does not decode"),
        (cut, [], "0_ann_0.wav: recording that does not decode"),
        (fast, [], "16000 Hz instead of 8000 Hz"),
        (twice, [], "the same digit, speaker and number as"),
        (few, [], "ann-00 has 3 recordings"),
        (nothing, [], "no recordings/DIGIT_SPEAKER_NUMBER.wav in"),
        (gone, [], "does not exist; set FSDD="),
        (None, ["--test_speakers", "dora"], "dora: choose among ann, bea, cy"),
        (None, ["--test_speakers", "ann", "bea", "cy"], "leave one for training"),
        (None, ["--dev_takes", "4"], "train: ann-00 has 0 recordings"),
    ],
)
def test_bad_input_ends_in_one_line(fsdd, tmp_path, damage, options, words):
    if damage:
        damage(fsdd / "recordings")
    with pytest.raises(SystemExit) as error:
        prepare(fsdd, tmp_path / "out", *options)
    message = str(error.value)
    assert message.startswith("error: ") and "\n" not in message
    assert words in message
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    """By a mistyped --audio."""
    audio = tmp_path / "sounds"
    (audio / "train").mkdir(parents=True)
    (audio / "mine.wav").write_bytes(b"mine")
    with pytest.raises(UserError, match="sounds would be replaced, and mine.wav in it"):
        build_digits({}, tmp_path / "data", audio)
    assert (audio / "mine.wav").read_bytes() == b"mine"
    assert not (tmp_path / "data").exists()


# --------------------------------------------------------------------------- the recipe


def test_stage_1_of_the_recipe(fsdd, clone, tmp_path):
    def stage_1(corpus):
        return subprocess.run(
            ["bash", "egs/digits/run.sh", "--python", sys.executable]
            + ["--stop_stage", "1", "--local_data_opts", " ".join(SMALL)],
            cwd=clone,
            env={**os.environ, "FSDD": str(corpus)},
            capture_output=True,
            text=True,
        )

    first = stage_1(fsdd)
    assert first.returncode == 0, first.stderr
    assert "7 utterances" in first.stdout
    data = clone / "egs" / "digits" / "data"
    assert len(read_scp(data / "test" / "text")) == 7
    assert "done and unchanged" in stage_1(fsdd).stdout
    missing = stage_1(tmp_path / "nowhere")
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1
    assert "nowhere does not exist; give the folder" in missing.stderr
