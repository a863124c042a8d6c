"""The synthetic corpus of the demo: speech, sentences, plan and files."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip(
    "espeakng_loader", reason='needs eSpeak NG: pip install "espnet_adastride[demo]"'
)
soundfile = pytest.importorskip("soundfile")

from espnet_adastride.bin.make_espeak_corpus import main  # noqa: E402
from espnet_adastride.corpora import espeak  # noqa: E402
from espnet_adastride.corpora.espeak import Voice, synthesise  # noqa: E402
from espnet_adastride.corpora.librispeech import (  # noqa: E402
    find_librispeech,
    scan_librispeech,
)
from espnet_adastride.corpora.mini_espeak import build  # noqa: E402
from espnet_adastride.corpora.mini_espeak import speech as making  # noqa: E402
from espnet_adastride.corpora.mini_espeak.build import build_corpus  # noqa: E402
from espnet_adastride.corpora.mini_espeak.grammar import (  # noqa: E402
    GRAMMAR,
    PARTS,
    Grammar,
    transcript,
)
from espnet_adastride.corpora.mini_espeak.plan import (  # noqa: E402
    DEFAULT_LM_SENTENCES,
    check_disjoint,
    generator,
    plan_corpus,
    seed_of,
)
from espnet_adastride.corpora.mini_espeak.speech import FS, speak  # noqa: E402
from espnet_adastride.errors import UserError  # noqa: E402
from espnet_adastride.files import locked  # noqa: E402

SMALL = {"train-mini": 3.0, "dev-mini": 0.4, "test-mini": 0.4}
SMALL_OPTIONS = [
    "--train_minutes",
    "3",
    "--dev_minutes",
    "0.4",
    "--test_minutes",
    "0.4",
]
TEXT = "the early train to london is crowded"


def digests(root):
    """Digest of every file below ``root`` by its relative path."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in Path(root).rglob("*")
        if p.is_file()
    }


@pytest.fixture(scope="module")
def plan():
    return plan_corpus()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus, made by two processes."""
    output = tmp_path_factory.mktemp("corpus of two processes")
    return build_corpus(output, minutes=SMALL, nj=2)


# ----------------------------------------------------------------------------- speech


# f2 draws from eSpeak NG's own generator, Reed from the C library's.
@pytest.mark.parametrize("variant", ["f2", "Reed", "klatt3", ""])
def test_speech_does_not_depend_on_what_was_said_before(variant):
    voice = Voice("en-gb", variant)
    first = synthesise(TEXT, voice, seed=3)
    synthesise("something else, and longer", Voice("en-us", "caleb", rate=200), seed=9)
    np.testing.assert_array_equal(synthesise(TEXT, voice, seed=3), first)
    script = (
        "import sys, numpy as np\n"
        "from espnet_adastride.corpora.espeak import Voice, synthesise\n"
        f"x = synthesise({TEXT!r}, Voice('en-gb', {variant!r}), seed=3)\n"
        "sys.stdout.buffer.write(x.tobytes())\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True
    )
    assert other.stdout == first.tobytes()


def test_the_parameters_of_a_voice_are_obeyed():
    usual = synthesise(TEXT, Voice("en-us", "m3", rate=160))
    fast = synthesise(TEXT, Voice("en-us", "m3", rate=240))
    assert 1.3 < len(usual) / len(fast) < 1.7  # 240 / 160 = 1.5
    low, high = (
        median_pitch(synthesise(TEXT, Voice("en-us", "m3", pitch=p))) for p in (30, 70)
    )
    assert high > 1.2 * low
    lively, flat = (
        synthesise(TEXT, Voice("en-us", "m3", pitch_range=r)) for r in (75, 10)
    )
    assert pitch_spread(lively) > 1.5 * pitch_spread(flat)


def test_a_break_lengthens_the_speech_by_about_its_time():
    text = "the soup is hot,{} but the bread is cold"
    voice = Voice("en-gb", "f1")
    none = synthesise(text.format('<break time="0ms"/>'), voice, ssml=True)
    long = synthesise(text.format('<break time="800ms"/>'), voice, ssml=True)
    assert 0.5 < (len(long) - len(none)) / FS < 1.1


def test_sampling_rates_agree():
    voice = Voice("en-us", "f1")
    engine = synthesise(TEXT, voice, fs=espeak.ENGINE_FS)
    low = synthesise(TEXT, voice, fs=16000)
    assert engine.dtype == low.dtype == np.int16
    assert abs(len(engine) / espeak.ENGINE_FS - len(low) / 16000) < 1e-3
    # The band below 6 kHz keeps its power, hence nothing was aliased or lost.
    a, b = power_below(engine, espeak.ENGINE_FS, 6000), power_below(low, 16000, 6000)
    assert abs(10 * np.log10(a / b)) < 0.1


def test_unknown_voices_are_refused_with_the_choices():
    with pytest.raises(UserError, match="no English accent 'en-moon'.*en-gb"):
        synthesise(TEXT, Voice("en-moon"))
    # eSpeak NG itself would speak with the plain voice.
    with pytest.raises(UserError, match="no voice variant 'f99'.*f1"):
        synthesise(TEXT, Voice("en-us", "f99"))
    with pytest.raises(UserError, match="returned no audio"):
        synthesise("", Voice("en-us"))


@pytest.mark.parametrize("package", ["espeakng_loader", "soxr"])
def test_a_missing_package_is_one_line_that_names_the_extra(
    package, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    espeak._paths.cache_clear()
    espeak._voice_files.cache_clear()
    try:
        with pytest.raises(SystemExit) as stop:
            main(["--output", str(tmp_path / "x"), "--nj", "1", *SMALL_OPTIONS])
    finally:
        espeak._paths.cache_clear()
        espeak._voice_files.cache_clear()
    assert "espnet_adastride[demo]" in stop.value.code
    assert "\n" not in stop.value.code


def test_the_module_loads_nothing_at_import():
    script = (
        "import sys, espnet_adastride.corpora.mini_espeak.build\n"
        "bad = {'espeakng_loader', 'soxr', 'espnet2'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_data_deep_in_the_tree_are_found(tmp_path, monkeypatch):
    """eSpeak NG copies the path into a short buffer."""
    import espeakng_loader

    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    data = deep / "espeak-ng-data"
    data.symlink_to(espeakng_loader.get_data_path())
    expected = synthesise(TEXT, Voice("en-us", "f1"))
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(data))
    espeak._paths.cache_clear()
    try:
        np.testing.assert_array_equal(synthesise(TEXT, Voice("en-us", "f1")), expected)
    finally:
        espeak._paths.cache_clear()


# -------------------------------------------------------------------------- sentences


def test_the_grammar_writes_english_that_transcripts_can_hold():
    grammar = Grammar.read()
    assert 300 <= len(grammar.vocabulary()) <= 600
    rng = generator(1, "test")
    drawn = {transcript(grammar.draw(rng)) for _ in range(5000)}
    assert len(drawn) > 4000
    vocabulary = grammar.vocabulary()
    for text in drawn:
        assert re.fullmatch(r"[A-Z']+( [A-Z']+)*", text)
        assert 3 <= len(text.split()) <= 14
        assert not re.search(r"\b(A [AEIOU]|AN [^AEIOU])", text), text
        assert {w.lower() for w in text.split()} <= vocabulary


def test_a_restricted_grammar_keeps_to_the_words_given():
    grammar = Grammar(
        {"animal": ("dog", "cat"), "who": ("the {animal}", "peter"), "far": ("moon",)},
        {"a": ("{who} sleeps today", "the {far} is far"), "b": ("the {far} shines",)},
    )
    small = grammar.restricted({"the", "dog", "sleeps", "today", "is", "far"})
    assert small.classes == {"animal": ("dog",), "who": ("the {animal}",)}
    assert small.topics == {"a": ("{who} sleeps today",)}
    assert small.draw(generator(0)) == "the dog sleeps today"


@pytest.mark.parametrize(
    "line, message",
    [("the {nothing} is here", "no class 'nothing'"), ("It is 3", "unexpected char")],
)
def test_mistakes_in_the_grammar_are_refused(tmp_path, line, message):
    text = GRAMMAR.read_text(encoding="utf-8")
    path = tmp_path / "grammar.yaml"
    path.write_text(f'{text}  mistakes:\n    - "{line}"\n', encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Grammar.read(path)


# ------------------------------------------------------------------------------- plan


def test_parts_share_neither_voices_nor_sentences_nor_lack_words(plan):
    texts = {p: [transcript(s) for s in plan.sentences(p)] for p in PARTS}
    everything = [t for part in texts.values() for t in part]
    everything += map(transcript, plan.lm_sentences)
    assert len(everything) == len(set(everything))
    assert len(plan.lm_sentences) == DEFAULT_LM_SENTENCES
    variants = [{s.voice.variant for s in plan.speakers if s.part == p} for p in PARTS]
    assert len(set.union(*variants)) == sum(map(len, variants))
    count = Counter(w for t in texts["train-mini"] for w in t.split())
    heard = Counter(w for p in PARTS[1:] for t in texts[p] for w in t.split())
    assert min(count[w] for w in heard) >= 15
    voices = {s.voice for s in plan.speakers if s.part == "train-mini"}
    assert len(voices) >= 40
    assert len({v.name for v in voices}) == len(voices)
    # All of them exist: eSpeak NG would not complain.
    accents, variants = espeak._voice_files()
    assert {v.variant for v in voices} <= set(variants)
    assert {v.accent for v in voices} <= accents.keys()


def test_the_plan_depends_on_the_seed_and_on_nothing_else(plan):
    assert plan_corpus() == plan
    other = plan_corpus(seed=1)
    shared = set(other.sentences("test-mini")) & set(plan.sentences("test-mini"))
    assert len(shared) < 0.2 * len(plan.sentences("test-mini"))


def test_a_plan_that_leaks_is_refused(plan):
    train, test = (
        next(c for c in plan.chapters if c.part == p)
        for p in ("train-mini", "test-mini")
    )
    others = tuple(c for c in plan.chapters if c is not test)
    key = next(iter(test.sentences))

    def with_test_sentence(sentence):
        changed = replace(test, sentences={**test.sentences, key: sentence})
        return replace(plan, chapters=others + (changed,))

    leaked = next(iter(train.sentences.values()))
    # A comma more is the same sentence.
    with pytest.raises(UserError, match="share sentences"):
        check_disjoint(with_test_sentence(leaked.replace(" ", ", ", 1)))
    with pytest.raises(UserError, match="words that train lacks.*XYLOPHONE"):
        check_disjoint(with_test_sentence("the xylophone is hot"))
    speaker = next(s for s in plan.speakers if s.part == "test-mini")
    voice = replace(speaker.voice, variant=train.speaker.voice.variant)
    speakers = plan.speakers + (replace(speaker, voice=voice),)
    with pytest.raises(UserError, match="share voice variants"):
        check_disjoint(replace(plan, speakers=speakers))
    told = replace(plan, lm_sentences=(next(iter(test.sentences.values())),))
    with pytest.raises(UserError, match="test-mini and mini-lm-norm.txt share"):
        check_disjoint(told)
    check_disjoint(plan)


def tiny_grammar():
    """A grammar of 24 sentences."""
    classes = {"who": ("dog", "cat", "horse"), "where": ("lake", "hut", "road", "hill")}
    topics = {"a": ("the {who} is near the {where}", "the {where} has a {who}")}
    return Grammar(classes, topics, Grammar.read().voices)


def test_a_small_grammar_has_less_text_for_the_language_model():
    minutes = {"train-mini": 0.3, "dev-mini": 0.02, "test-mini": 0.02}
    plan = plan_corpus(minutes=minutes, grammar=tiny_grammar(), lm_sentences=1000)
    spoken = sum(len(plan.sentences(part)) for part in PARTS)
    assert spoken + len(plan.lm_sentences) == 24


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_impossible_lengths_are_refused(minutes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "x"), f"--dev_minutes={minutes}"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--dev_minutes: '{minutes}': give a number above 0" in line
    assert not (tmp_path / "x").exists()


def test_more_test_speech_than_the_training_words_can_make_is_refused():
    minutes = {"train-mini": 0.3, "dev-mini": 0.02, "test-mini": 60}
    with pytest.raises(UserError, match="test-mini: the grammar only has"):
        plan_corpus(minutes=minutes, grammar=tiny_grammar())


# ------------------------------------------------------------------------------ audio


def test_utterances_look_like_speech(plan):
    lengths, letters, kinds = [], [], Counter()
    for chapter in plan.chapters[::4]:
        for key, sentence in list(chapter.sentences.items())[::4]:
            samples = speak(sentence, chapter.speaker, seed_of(0, key))
            x = samples / 32768.0
            lengths.append(len(x) / FS)
            letters.append(len(sentence) / chapter.speaker.voice.rate)
            assert 1.0 < lengths[-1] < 7.0
            assert np.abs(x).max() <= making.PEAK + 1e-3
            levels = frame_levels(x)
            assert -36 < np.percentile(levels, 90) < -12, key
            # Syllables and pauses: speech is far less steady than noise (< 3 dB).
            spread = np.percentile(levels, 90) - np.percentile(levels, 5)
            assert spread > 10, (key, spread)
            # Most power of speech is below 4 kHz; of white noise, half of it.
            assert power_below(x, FS, 4000) > 0.75 * power_below(x, FS, FS / 2), key
            # The ends hold hiss or noise but no word, and never digital silence.
            assert x[: FS // 10].std() > 0 and x[-FS // 10 :].std() > 0
            kinds["noisy" if np.percentile(levels, 3) > -55 else "quiet"] += 1
    assert len(lengths) > 40
    assert np.corrcoef(lengths, letters)[0, 1] > 0.75
    assert min(kinds["noisy"], kinds["quiet"]) > 0.2 * len(lengths)


def test_noise_has_the_spectrum_and_ratio_asked_for(monkeypatch):
    rng = np.random.default_rng(0)
    pink = making._noise("pink", 10 * FS, "train-mini", rng)
    octaves = [power_between(pink, f, 2 * f) for f in (125, 250, 500, 1000, 2000, 4000)]
    assert max(octaves) / min(octaves) < 1.5  # equal power in each octave
    babble = making._noise("babble", 5 * FS, "test-mini", rng)
    assert power_below(babble, FS, 4000) > 0.8 * power_below(babble, FS, FS / 2)

    speaker = plan_corpus(minutes=SMALL).speakers[0]
    monkeypatch.setattr(making, "NOISE_SHARE", 1.0)
    monkeypatch.setattr(making, "SNRS", (20.0, 20.0))
    noisy = speak(TEXT, speaker, 5) / 32768.0
    monkeypatch.setattr(making, "SNRS", (300.0, 300.0))
    clean = speak(TEXT, speaker, 5) / 32768.0
    loud = np.flatnonzero(np.abs(clean) > 0.01)
    speech = clean[loud[0] : loud[-1]]
    ratio = 10 * np.log10(np.mean(speech**2) / np.mean((noisy - clean) ** 2))
    assert abs(ratio - 20) < 0.5


# ------------------------------------------------------------------------------ files


def test_the_corpus_reads_as_librispeech(corpus):
    root, parts = find_librispeech(corpus.parent)
    assert parts == sorted(PARTS)
    plan = plan_corpus(minutes=SMALL)
    speakers = {}
    for line in (root / "SPEAKERS.TXT").read_text(encoding="utf-8").splitlines():
        if not line.startswith(";"):
            number, sex, subset, minutes, name = [f.strip() for f in line.split("|")]
            speakers[number] = (sex, subset, float(minutes), name)
    about = json.loads((root / "mini_espeak.json").read_text(encoding="utf-8"))
    for part in PARTS:
        scan = scan_librispeech(root, [part], progress=False)
        assert scan.excluded == [] and scan.ignored == []
        texts = {u.id: u.text for u in scan.utterances}
        assert sorted(texts.values()) == sorted(
            transcript(s) for s in plan.sentences(part)
        )
        here = {u.speaker.split("-")[0] for u in scan.utterances}
        assert here == {n for n, s in speakers.items() if s[1] == part}
        seconds = sum(u.samples for u in scan.utterances) / FS
        assert abs(seconds - about["parts"][part]["seconds"]) < 0.01
        assert abs(sum(speakers[n][2] for n in here) - seconds / 60) < 0.01 * len(here)
        # minutes are planned at the mean rate; a lone speaker's is 130 to 210 wpm
        slack = 0.25 if len(here) > 1 else 0.4
        assert abs(seconds / 60 - SMALL[part]) < slack * SMALL[part]
    for speaker in plan.speakers:
        sex, _, _, name = speakers[str(speaker.id)]
        assert sex == speaker.sex and name.startswith(f"{speaker.voice.name}, ")
        assert f"{speaker.voice.rate} words per minute" in name


def test_the_bytes_do_not_depend_on_the_processes(corpus, tmp_path):
    assert digests(build_corpus(tmp_path, minutes=SMALL, nj=1)) == digests(corpus)


def test_a_whole_corpus_is_left_alone_and_others_are_refused(corpus, capsys):
    before = digests(corpus), corpus.stat().st_mtime_ns
    command = ["--output", str(corpus.parent), *SMALL_OPTIONS]
    main(command)
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match="made with other options.*seed: 0 there, 7 requested"
    ):
        main([*command, "--seed", "7"])
    assert (digests(corpus), corpus.stat().st_mtime_ns) == before

    victim = next(corpus.glob("test-mini/*/*/*.flac"))
    content = victim.read_bytes()
    victim.unlink()
    try:
        with pytest.raises(SystemExit, match=f"1 files are missing.*{victim.name}"):
            main(command)
    finally:
        victim.write_bytes(content)


def test_a_folder_that_is_not_ours_is_not_touched(tmp_path):
    mine = tmp_path / "LibriSpeech" / "test-mini" / "1089" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(SystemExit, match="is not a mini_espeak corpus"):
        main(["--output", str(tmp_path), *SMALL_OPTIONS])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [mine]


def start(output):
    command = [sys.executable, "-m", "espnet_adastride.bin.make_espeak_corpus"]
    return subprocess.Popen(
        [*command, "--output", str(output), *SMALL_OPTIONS, "--nj", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_corpus_is_finished_the_same(how, corpus, tmp_path, capsys):
    process = start(tmp_path)
    partial = tmp_path / ".LibriSpeech.partial"
    until(lambda: len(list(partial.glob("*/*/[0-9]*"))) >= 1)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (tmp_path / "LibriSpeech").exists()
    if how == signal.SIGINT:
        assert output.splitlines()[-1].endswith("run the same command to resume")
        assert "Traceback" not in output
    # The workers of a killed process go too, and give its lock back.
    finished = []

    def go_on():
        try:
            finished.append(build_corpus(tmp_path, minutes=SMALL))
        except UserError as e:
            assert "another process" in str(e)
        return finished

    until(go_on)
    assert "chapters kept" in capsys.readouterr().out
    assert digests(finished[0]) == digests(corpus)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LibriSpeech"]


def test_remains_of_other_options_are_not_taken_for_whole(corpus, tmp_path, capsys):
    partial = tmp_path / ".LibriSpeech.partial"
    chapter = next(corpus.glob("train-mini/*/*")).relative_to(corpus)
    (partial / chapter).mkdir(parents=True)
    (partial / chapter / "stale.flac").write_bytes(b"stale")
    (partial / "plan.json").write_text("{}")
    assert digests(build_corpus(tmp_path, minutes=SMALL)) == digests(corpus)
    assert "starting over" in capsys.readouterr().out


def test_two_commands_do_not_work_in_one_folder(tmp_path):
    with locked(tmp_path):
        with pytest.raises(SystemExit, match="another process is making the corpus"):
            main(["--output", str(tmp_path), *SMALL_OPTIONS])


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for output in (blocked, blocked / "below"):
        with pytest.raises(SystemExit) as stop:
            main(["--output", str(output), *SMALL_OPTIONS])
        assert f"error: {blocked}" in stop.value.code
        assert "move it away" in stop.value.code
        assert "\n" not in stop.value.code


def test_a_failing_process_ends_the_command(tmp_path, monkeypatch):
    def fail(root, seed, chapter):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "make_chapter", fail)
    with pytest.raises(SystemExit, match="the disk is full: make room"):
        main(["--output", str(tmp_path), "--nj", "1", *SMALL_OPTIONS])
    assert not (tmp_path / "LibriSpeech").exists()


# -------------------------------------------------------------------------- measuring


def until(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.02)


def frame_levels(x, size=FS // 50):
    """Level of 20 ms frames in dB re full scale."""
    frames = x[: len(x) // size * size].reshape(-1, size)
    return 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)


def power_between(x, low, high, fs=FS):
    power = np.abs(np.fft.rfft(x)) ** 2
    f = np.fft.rfftfreq(len(x), 1 / fs)
    return power[(f >= low) & (f < high)].sum() / len(x) ** 2


def power_below(x, fs, high):
    return power_between(x, 0, high, fs)


def pitches(x, fs=FS):
    """Fundamental frequencies of the voiced 50 ms frames, by autocorrelation."""
    found = []
    for start_ in range(0, len(x) - fs // 20, fs // 50):
        frame = x[start_ : start_ + fs // 20].astype(float)
        frame -= frame.mean()
        if frame.std() < 300:
            continue
        r = np.correlate(frame, frame, "full")[len(frame) - 1 :]
        lag = fs // 400 + np.argmax(r[fs // 400 : fs // 60])
        if r[lag] > 0.5 * r[0]:
            found.append(fs / lag)
    return np.array(found)


def median_pitch(x):
    return np.median(pitches(x))


def pitch_spread(x):
    found = pitches(x)
    return np.percentile(found, 85) / np.percentile(found, 15) - 1
