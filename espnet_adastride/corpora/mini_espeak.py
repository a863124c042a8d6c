"""The demo's corpus: mini_espeak, synthetic speech in the layout of LibriSpeech.

    OUTPUT/LibriSpeech/train-mini/SPK/CHAP/SPK-CHAP-0000.flac ... SPK-CHAP.trans.txt
    OUTPUT/LibriSpeech/{dev-mini,test-mini}/...
    OUTPUT/LibriSpeech/mini-lm-norm.txt   text for a language model, a sentence a line
    OUTPUT/LibriSpeech/SPEAKERS.TXT       voice, rate and pitch of each speaker
    OUTPUT/LibriSpeech/README.TXT         how it was made
    OUTPUT/LibriSpeech/mini_espeak.json   the same for programs; marks it as complete

A :class:`Grammar` draws sentences, :func:`plan_corpus` assigns them to speakers and
parts, and :func:`build_corpus` synthesises them, adds pauses, gains and noise, and
writes the files. No sentence and no voice variant occurs in two parts, no sentence of
dev and test in the language model's text, and every word of dev and test occurs in
train: the word error rate then measures how well the sounds were learnt.

All randomness is seeded by the corpus seed and the name of the drawn item: the same
options give the same bytes, with any number of processes.
"""

import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple, Union

import numpy as np

from espnet_adastride.corpora import espeak
from espnet_adastride.corpora.espeak import Voice, synthesise
from espnet_adastride.errors import UserError
from espnet_adastride.files import locked, write_flac, write_text

GRAMMAR = Path(__file__).parent / "mini_espeak_grammar.yaml"
FORMAT = 3  # raise when the audio made from the same options changes
FS = 16000  # Hz

PARTS = ("train-mini", "dev-mini", "test-mini")
DEFAULT_MINUTES = {"train-mini": 90.0, "dev-mini": 4.0, "test-mini": 8.0}
MAX_SPEAKERS = {"train-mini": 162, "dev-mini": 8, "test-mini": 16}
FIRST_SPEAKER = {"train-mini": 1001, "dev-mini": 2001, "test-mini": 3001}
DEFAULT_LM_SENTENCES = 10000
LM_TEXT = "mini-lm-norm.txt"  # LibriSpeech's is librispeech-lm-norm.txt
MIN_SPEAKER_UTTERANCES = (
    8  # a small corpus has fewer speakers, not fewer utterances per speaker
)
CHAPTER_UTTERANCES = 20
MIN_WORDS, MAX_WORDS = 3, 14

RATES = (130, 185)  # words per minute
PITCHES = (30, 70)
PITCH_RANGES = (30, 75)
NOISE_SHARE = 0.3  # share of the utterances
SNRS = (15.0, 30.0)  # dB
LEVELS = (-32.0, -20.0)  # dB re full scale, speech alone
FLOORS = (-75.0, -60.0)  # dB re full scale, faint noise in every recording
PEAK = 0.9  # of full scale, never exceeded


# ------------------------------------------------------------------------ the sentences


@dataclass(frozen=True)
class Grammar:
    """Sentence templates and the classes of words that fill them.

    Attributes:
        classes: Entries by class name; an entry may contain ``{class}``.
        topics: Templates by topic.
        voices: ``accents`` and, by part, variants with their sex, as
            ``(variant, "F" or "M")``.
    """

    classes: Dict[str, Tuple[str, ...]]
    topics: Dict[str, Tuple[str, ...]]
    voices: Dict[str, tuple] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Union[str, Path] = GRAMMAR) -> "Grammar":
        """Read the grammar file; its header explains the format.

        Raises:
            UserError: A class is used but not defined, or a template has
                characters not allowed in transcripts.
        """
        import yaml

        with open(path, encoding="utf-8") as f:
            content = yaml.safe_load(f)

        def split(line: str) -> Tuple[str, ...]:
            return tuple(" ".join(entry.split()) for entry in line.split(","))

        voices = {"accents": split(content["voices"]["accents"])}
        for part in PARTS:
            sexes = content["voices"][part.split("-")[0]]
            voices[part] = tuple(
                (variant, sex[0].upper())
                for sex, line in sexes.items()
                for variant in split(line)
            )
        grammar = cls(
            {name: split(str(line)) for name, line in content["classes"].items()},
            {topic: tuple(t) for topic, t in content["topics"].items()},
            voices,
        )
        for text in grammar._texts():
            if not re.fullmatch(r"[a-z' ,{}]+\??", text):
                raise UserError(f"{path}: unexpected characters in {text!r}")
            for name in _fields(text):
                if name not in grammar.classes:
                    raise UserError(f"{path}: no class {name!r} ({text!r})")
        return grammar

    def _texts(self) -> List[str]:
        groups = (*self.classes.values(), *self.topics.values())
        return [text for group in groups for text in group]

    def vocabulary(self) -> Set[str]:
        """All words that occur in the grammar."""
        return {word for text in self._texts() for word in _words(text)} | {"an"}

    def restricted(self, words: Set[str]) -> "Grammar":
        """The part of the grammar that only uses ``words``."""
        classes = dict(self.classes)
        while True:

            def possible(text: str) -> bool:
                return words.issuperset(_words(text)) and all(
                    name in classes for name in _fields(text)
                )

            kept = {n: tuple(filter(possible, e)) for n, e in classes.items()}
            kept = {name: entries for name, entries in kept.items() if entries}
            if kept == classes:
                break
            classes = kept
        topics = {n: tuple(filter(possible, t)) for n, t in self.topics.items()}
        return Grammar(classes, {n: t for n, t in topics.items() if t}, self.voices)

    def draw(self, rng: random.Random) -> str:
        """Draw a sentence, with its commas and question mark."""
        while True:
            template = rng.choice(self.topics[rng.choice(list(self.topics))])
            filled: Dict[str, Set[str]] = {}

            def fill(match) -> str:
                name = match.group(1)
                text = self._expand(rng.choice(self.classes[name]), rng)
                # No "salt and salt"; a telephone number may repeat a digit.
                before = filled.setdefault(name, set())
                if text in before and name != "digit":
                    raise _Repetition
                before.add(text)
                return text

            try:
                sentence = re.sub(r"\{(\w+)\}", fill, template)
            except _Repetition:
                continue
            sentence = re.sub(r"\ba (?=[aeiou])", "an ", sentence)
            if MIN_WORDS <= len(_words(sentence)) <= MAX_WORDS:
                return sentence

    def _expand(self, text: str, rng: random.Random) -> str:
        return re.sub(
            r"\{(\w+)\}",
            lambda m: self._expand(rng.choice(self.classes[m.group(1)]), rng),
            text,
        )


class _Repetition(Exception):
    pass


def _fields(text: str) -> List[str]:
    return re.findall(r"\{(\w+)\}", text)


def _words(text: str) -> List[str]:
    return re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", text))


def transcript(sentence: str) -> str:
    """LibriSpeech's form of a sentence: upper case, no punctuation."""
    return " ".join(_words(sentence)).upper()


# ----------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Speaker:
    """A speaker: a voice with its rate and pitch, in one part."""

    id: int
    part: str
    sex: str
    voice: Voice


@dataclass(frozen=True)
class Chapter:
    """The unit of work of a process: some utterances of one speaker.

    Attributes:
        sentences: By utterance id.
    """

    part: str
    speaker: Speaker
    id: int
    sentences: Dict[str, str]

    @property
    def folder(self) -> Path:
        """Relative to the folder of the corpus: ``PART/SPK/CHAP``."""
        return Path(self.part, str(self.speaker.id), str(self.id))


@dataclass(frozen=True)
class Plan:
    """Speakers and sentences of all parts; see :func:`plan_corpus`."""

    seed: int
    minutes: Dict[str, float]
    speakers: Tuple[Speaker, ...]
    chapters: Tuple[Chapter, ...]
    lm_sentences: Tuple[str, ...] = ()

    def sentences(self, part: str) -> List[str]:
        """All sentences of a part, in the order of the utterance ids."""
        return [
            s for c in self.chapters if c.part == part for s in c.sentences.values()
        ]


def plan_corpus(
    seed: int = 0,
    minutes: Optional[Dict[str, float]] = None,
    grammar: Optional[Grammar] = None,
    lm_sentences: int = DEFAULT_LM_SENTENCES,
) -> Plan:
    """Draw the speakers and the sentences of every part.

    Args:
        seed: Random seed.
        minutes: Length of each part, silences included; accurate to a few per cent.
        lm_sentences: Number of extra sentences for a language model.
        grammar: Default: the grammar of the package.

    Raises:
        UserError: A part is empty or so large that the grammar runs out of new
            sentences.
    """
    minutes = dict(DEFAULT_MINUTES if minutes is None else minutes)
    grammar = grammar or Grammar.read()
    speakers, chapters, taken = [], [], set()
    for part in PARTS:
        if not (math.isfinite(minutes[part]) and minutes[part] > 0):
            raise UserError(
                f"{part} of {minutes[part]:g} minutes: give a length above 0"
            )
        source, allowed = grammar, grammar.vocabulary()
        if part != PARTS[0]:
            trained = {
                w
                for c in chapters
                for s in c.sentences.values()
                for w in _words(s)
                if c.part == PARTS[0]
            }
            source, allowed = grammar.restricted(trained), trained
        seconds = minutes[part] * 60
        drawn = _draw_sentences(part, source, seed, taken, allowed, seconds=seconds)
        here = _draw_speakers(part, grammar, seed, len(drawn))
        speakers += here
        chapters += _share_out(part, here, drawn)
    more = _draw_sentences(LM_TEXT, source, seed, taken, allowed, number=lm_sentences)
    plan = Plan(seed, minutes, tuple(speakers), tuple(chapters), tuple(more))
    check_disjoint(plan)
    return plan


def _draw_sentences(
    part: str,
    grammar: Grammar,
    seed: int,
    taken: Set[str],
    allowed: Set[str],
    seconds: float = math.inf,
    number: float = math.inf,
) -> List[str]:
    """New sentences that last about ``seconds``, or at most ``number`` of them.

    They are added to ``taken``.
    """
    rng = _rng(seed, part, "sentences")
    counts: Dict[str, int] = Counter()
    drawn, total, misses = [], 0.0, 0
    while total < seconds and len(drawn) < number:
        # Of several candidates, use the one with the rarest word so far: words that
        # train hardly contains would make the test a matter of luck.
        candidates = [grammar.draw(rng) for _ in range(5) if grammar.topics]
        candidates = [
            s
            for s in candidates
            if transcript(s) not in taken and allowed.issuperset(_words(s))
        ]
        if not candidates:
            misses += 1
            if misses > 1000 and math.isfinite(number):
                break  # a small grammar: use all
            if misses > 1000:
                raise UserError(
                    f"{part}: the grammar only has {len(drawn)} new sentences "
                    "for it; reduce its length, or increase that of train-mini"
                )
            continue
        misses = 0
        sentence = min(candidates, key=lambda s: min(counts[w] for w in _words(s)))
        taken.add(transcript(sentence))
        counts.update(_words(sentence))
        drawn.append(sentence)
        total += _expected_seconds(sentence)
    return drawn


def _expected_seconds(sentence: str) -> float:
    """Length of an utterance with its silences, from a fit to a whole corpus."""
    return 0.76 + 0.30 * sentence.count(",") + 8.7 * len(sentence) / np.mean(RATES)


def _draw_speakers(
    part: str, grammar: Grammar, seed: int, utterances: int
) -> List[Speaker]:
    variants = list(grammar.voices[part])
    accents = list(grammar.voices["accents"])
    rng = _rng(seed, part, "speakers")
    rng.shuffle(variants)
    rng.shuffle(accents)
    count = min(MAX_SPEAKERS[part], max(1, utterances // MIN_SPEAKER_UTTERANCES))
    speakers = []
    for i in range(count):
        variant, sex = variants[i % len(variants)]
        # Shifted in each round, so that a variant gets another accent.
        accent = accents[(i % len(variants) + 3 * (i // len(variants))) % len(accents)]
        voice = Voice(
            accent,
            variant,
            rng.randint(*RATES),
            rng.randint(*PITCHES),
            rng.randint(*PITCH_RANGES),
        )
        speakers.append(Speaker(FIRST_SPEAKER[part] + i, part, sex, voice))
    return speakers


def _share_out(
    part: str, speakers: Sequence[Speaker], sentences: Sequence[str]
) -> List[Chapter]:
    chapters = []
    for i, speaker in enumerate(speakers):
        own = sentences[i :: len(speakers)]
        for n, start in enumerate(range(0, len(own), CHAPTER_UTTERANCES)):
            chapter = 100 * speaker.id + n
            texts = {
                f"{speaker.id}-{chapter}-{k:04d}": sentence
                for k, sentence in enumerate(own[start : start + CHAPTER_UTTERANCES])
            }
            chapters.append(Chapter(part, speaker, chapter, texts))
    return chapters


def check_disjoint(plan: Plan) -> None:
    """Reject a plan whose parts share sentences or voices, or have unknown words.

    The language model's text may not share sentences with any part.

    Raises:
        UserError: naming the shared items or the words missing in train.
    """
    texts = {p: [transcript(s) for s in plan.sentences(p)] for p in PARTS}
    lm_texts = {transcript(s) for s in plan.lm_sentences}
    variants = {
        p: {s.voice.variant for s in plan.speakers if s.part == p} for p in PARTS
    }
    train_words = {w for t in texts[PARTS[0]] for w in t.split()}
    for i, part in enumerate(PARTS):
        repeated = [t for t, n in Counter(texts[part]).items() if n > 1]
        if repeated:
            raise UserError(f"{part} has a sentence twice: {repeated[0]}")
        if lm_texts.intersection(texts[part]):
            raise UserError(f"{part} and {LM_TEXT} share sentences")
        unknown = {w for t in texts[part] for w in t.split()} - train_words
        if unknown:
            raise UserError(f"{part} has words that train lacks: {unknown}")
        for other in PARTS[:i]:
            for kind, a, b in (
                ("sentences", set(texts[part]), set(texts[other])),
                ("voice variants", variants[part], variants[other]),
            ):
                if a & b:
                    raise UserError(
                        f"{part} and {other} share {kind}: {sorted(a & b)[:3]}"
                    )


def _rng(seed: int, *names: str) -> random.Random:
    return random.Random(_seed(seed, *names))


def _seed(seed: int, *names: str) -> int:
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


# ---------------------------------------------------------------------------- the audio


def speak(sentence: str, speaker: Speaker, seed: int) -> np.ndarray:
    """Synthesise a sentence with pauses, silence at both ends, gain and noise.

    Args:
        sentence: From the grammar; commas are pauses.
        speaker: The speaker; the rate varies by 6 % between utterances.
        seed: Random seed of this utterance.

    Returns:
        Samples, int16 (N,), 16 kHz.
    """
    rng = np.random.default_rng(seed)
    rate = round(speaker.voice.rate * rng.uniform(0.94, 1.06))
    voice = replace(speaker.voice, rate=rate)
    speech = synthesise(
        _add_pauses(sentence, rng), voice, FS, int(rng.integers(1 << 31)), ssml=True
    )
    speech = speech / 32768.0
    speech *= 10 ** (rng.uniform(*LEVELS) / 20) / _rms(speech)
    ends = [int(FS * rng.uniform(0.1, 0.5)) for _ in range(2)]
    signal_ = np.concatenate([np.zeros(ends[0]), speech, np.zeros(ends[1])])
    noise = 10 ** (rng.uniform(*FLOORS) / 20) * rng.standard_normal(len(signal_))
    if rng.random() < NOISE_SHARE:
        kind = ("white", "pink", "babble")[rng.integers(3)]
        snr = rng.uniform(*SNRS)
        extra = _noise(kind, len(signal_), speaker.part, rng)
        noise = noise + extra * (_rms(speech) / _rms(extra) * 10 ** (-snr / 20))
    signal_ = signal_ + noise
    peak = np.abs(signal_).max()
    if peak > PEAK:
        signal_ *= PEAK / peak
    return np.rint(signal_ * 32767).astype(np.int16)


def _add_pauses(sentence: str, rng: np.random.Generator) -> str:
    """SSML of a sentence: commas become pauses; sometimes with a hesitation."""

    def pause(low: int, high: int) -> str:
        return f'<break time="{int(rng.integers(low, high))}ms"/>'

    parts = [f"{p.strip()}, " for p in sentence.split(",")]
    text = parts[0]
    for part in parts[1:]:
        text += pause(100, 600) + part
    text = text.rstrip(", ")
    words = text.split(" ")
    if "<break" not in text and len(words) > 4 and rng.random() < 0.15:
        words.insert(int(rng.integers(2, len(words) - 1)), pause(80, 350))
        text = " ".join(words)
    return text if text.endswith("?") else text + "."


def _noise(kind: str, length: int, part: str, rng: np.random.Generator) -> np.ndarray:
    if kind == "babble":
        bed = _babble(part)
        start = int(rng.integers(len(bed)))
        return np.resize(np.roll(bed, -start), length)
    white = rng.standard_normal(length)
    if kind == "white":
        return white
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))  # power ~ 1 / f
    return np.fft.irfft(spectrum, length)


@lru_cache(maxsize=None)
def _babble(part: str, seconds: float = 15.0, talkers: int = 6) -> np.ndarray:
    """Several voices of the part talking at once, (N,) of unit power."""
    grammar = Grammar.read()
    rng = _rng(0, part, "babble")
    bed = np.zeros(int(FS * seconds))
    for i in range(talkers):
        variant, _ = rng.choice(grammar.voices[part])
        voice = Voice("en-us", variant, rng.randint(*RATES), rng.randint(*PITCHES))
        talk = [
            synthesise(grammar.draw(rng), voice, FS, 100 * i + n) / 32768.0
            for n in range(6)
        ]
        talk = np.resize(np.concatenate(talk), len(bed))
        bed += talk / _rms(talk)
    return bed / _rms(bed)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


# ---------------------------------------------------------------------------- the files


def build_corpus(
    output: Union[str, Path],
    seed: int = 0,
    minutes: Optional[Dict[str, float]] = None,
    nj: int = 1,
    say: Callable[[str], None] = print,
    lm_sentences: int = DEFAULT_LM_SENTENCES,
) -> Path:
    """Make the corpus, resume an interrupted one, or leave a complete one alone.

    Work happens in ``OUTPUT/.LibriSpeech.partial``, chapter by chapter; a chapter is
    renamed when it is complete. At the end the folder becomes ``OUTPUT/LibriSpeech``.

    Args:
        output: Parent folder of ``LibriSpeech``.
        seed: Random seed.
        minutes: Length by part; the default is :data:`DEFAULT_MINUTES`.
        nj: Number of processes; the files do not depend on it.
        say: Called with progress messages, one line each.
        lm_sentences: Number of sentences in ``mini-lm-norm.txt``.

    Returns:
        ``OUTPUT/LibriSpeech``.

    Raises:
        UserError: There is another corpus, the existing one is damaged, or eSpeak NG
            is missing or fails.
        OSError: The folder cannot be written.
    """
    started = time.time()
    minutes = dict(DEFAULT_MINUTES if minutes is None else minutes)
    final = Path(output) / "LibriSpeech"
    partial = Path(output) / ".LibriSpeech.partial"
    plan = plan_corpus(seed, minutes, lm_sentences=lm_sentences)
    made_of = {
        "format": FORMAT,
        "seed": seed,
        "minutes": minutes,
        "lm_sentences": lm_sentences,
        "espeak_ng": espeak.version(),
        # Include sentences and voices: the grammar file may have been edited.
        "plan": hashlib.sha256(repr(plan).encode()).hexdigest()[:16],
    }
    Path(output).mkdir(parents=True, exist_ok=True)
    with locked(output, wait=False) as free:
        if not free:
            raise UserError(
                f"another process is making the corpus in {output}; wait for it or "
                "stop it"
            )
        if final.exists():
            _check_finished(final, made_of, plan)
            say(f"{final}: already complete ({_summary(plan)})")
        else:
            _build(partial, made_of, plan, nj, say)
            os.rename(partial, final)
            say(f"{final}: finished [{time.time() - started:.1f} s]")
    return final


def _build(
    partial: Path, made_of: dict, plan: Plan, nj: int, say: Callable[[str], None]
) -> None:
    output = partial.parent
    partial.mkdir(exist_ok=True)
    stamp = partial / "plan.json"
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == _json(made_of)):
        if any(partial.iterdir()):
            say(f"{output}: an interrupted run had other options: starting over")
            shutil.rmtree(partial)
            partial.mkdir()
        write_text(stamp, _json(made_of))
    for leftover in partial.glob("*/*/.*.tmp"):  # left by killed processes
        shutil.rmtree(leftover)
    todo = [c for c in plan.chapters if not (partial / c.folder).is_dir()]
    done = len(plan.chapters) - len(todo)
    if done:
        say(f"{output}: resuming an interrupted run, {done} chapters kept")
    say(f"{output}: {_summary(plan)}, {nj} processes")
    _make_chapters(partial, plan.seed, todo, nj, len(plan.chapters), say)

    lm_text = "".join(f"{transcript(s)}\n" for s in plan.lm_sentences)
    write_text(partial / LM_TEXT, lm_text)
    _write_descriptions(partial, made_of, plan)
    _check_files(partial, plan)
    stamp.unlink()


def _make_chapters(
    partial: Path,
    seed: int,
    todo: Sequence[Chapter],
    nj: int,
    total: int,
    say: Callable[[str], None],
) -> None:
    def report(number: int) -> None:
        done = total - len(todo) + number
        if number == len(todo) or number % max(1, total // 5) == 0:
            say(f"{done} of {total} chapters")

    if nj <= 1:
        for number, chapter in enumerate(todo, 1):
            make_chapter(partial, seed, chapter)
            report(number)
        return
    with ProcessPoolExecutor(nj, initializer=_start_worker) as pool:
        jobs = [pool.submit(make_chapter, partial, seed, c) for c in todo]
        try:
            for number, job in enumerate(as_completed(jobs), 1):
                job.result()
                report(number)
        except BrokenProcessPool:
            raise UserError(
                "a process died (out of memory?); run the command again to "
                "resume, with a smaller --nj"
            ) from None
        finally:
            for job in jobs:
                job.cancel()


def _start_worker() -> None:
    # Ctrl-C goes to the whole group; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def follow():
        # A killed parent cannot stop its workers: they would wait forever and keep
        # holding its lock.
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def make_chapter(root: Path, seed: int, chapter: Chapter) -> None:
    """Write the recordings and transcripts of a chapter below ``root``."""
    final = root / chapter.folder
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    lines = []
    for key, sentence in chapter.sentences.items():
        samples = speak(sentence, chapter.speaker, _seed(seed, key))
        write_flac(temporary / f"{key}.flac", samples, FS)
        lines.append(f"{key} {transcript(sentence)}\n")
    name = f"{chapter.speaker.id}-{chapter.id}.trans.txt"
    (temporary / name).write_text("".join(lines), encoding="utf-8")
    os.rename(temporary, final)


def _write_descriptions(root: Path, made_of: dict, plan: Plan) -> None:
    import soundfile

    seconds: Dict[int, float] = Counter()
    for chapter in plan.chapters:
        for key in chapter.sentences:
            info = soundfile.info(root / chapter.folder / f"{key}.flac")
            seconds[chapter.speaker.id] += info.frames / FS
    lines = [
        "; Speakers of mini_espeak: voices of eSpeak NG, in LibriSpeech's format.\n",
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n",
    ]
    for s in plan.speakers:
        v = s.voice
        lines.append(
            f"{s.id:<5}| {s.sex} | {s.part:<17}| {seconds[s.id] / 60:<5.2f} | "
            f"{v.name}, {v.rate} words per minute, pitch {v.pitch}, "
            f"range {v.pitch_range}\n"
        )
    write_text(root / "SPEAKERS.TXT", "".join(lines))
    parts = {}
    for part in PARTS:
        here = [s for s in plan.speakers if s.part == part]
        sentences = plan.sentences(part)
        parts[part] = {
            "utterances": len(sentences),
            "seconds": round(sum(seconds[s.id] for s in here), 3),
            "speakers": len(here),
            "words": sum(len(_words(s)) for s in sentences),
            "word_types": len({w for s in sentences for w in _words(s)}),
        }
    table = "".join(
        f"    {part:<12} {p['utterances']:>5} utterances {p['seconds'] / 60:6.1f} min "
        f"{p['speakers']:>3} speakers {p['words']:>6} words "
        f"({p['word_types']} different)\n"
        for part, p in parts.items()
    )
    write_text(
        root / "README.TXT",
        f"""mini_espeak: a small synthetic corpus in LibriSpeech's layout

{table}
Made by `python -m espnet_adastride.bin.make_espeak_corpus` with seed {plan.seed}
and eSpeak NG {made_of['espeak_ng']}.

The sentences come from a grammar (espnet_adastride/corpora/mini_espeak_grammar.yaml).
No sentence and no voice variant occurs in two parts; every word of dev and test
occurs in train. {LM_TEXT} holds {len(plan.lm_sentences)} further sentences, none of
which is spoken in any part. The rate of a speaker varies by 6 % between utterances;
commas are pauses of 0.1 to 0.6 s, and 0.1 to 0.5 s of silence stand at both ends.
{NOISE_SHARE:.0%} of the utterances have white noise, pink noise or the babble of six
voices at {SNRS[0]:.0f} to {SNRS[1]:.0f} dB SNR; all have a faint hiss. Speech levels
are {-LEVELS[1]:.0f} to {-LEVELS[0]:.0f} dB below full scale.
SPEAKERS.TXT names the voice of each speaker.
""",
    )
    write_text(root / "mini_espeak.json", _json({"made_of": made_of, "parts": parts}))


def _check_finished(final: Path, made_of: dict, plan: Plan) -> None:
    try:
        stamp = json.loads((final / "mini_espeak.json").read_text(encoding="utf-8"))
        there = stamp["made_of"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{final} exists and is not a mini_espeak corpus; give another --output"
        ) from None
    differing = [
        f"{k}: {there.get(k)} there, {v} requested"
        for k, v in made_of.items()
        if there.get(k) != v
    ]
    if differing:
        raise UserError(
            f"{final} was made with other options ({'; '.join(differing)}); give "
            "another --output, or remove it"
        )
    _check_files(final, plan)


def _check_files(root: Path, plan: Plan) -> None:
    missing = []
    for chapter in plan.chapters:
        folder = root / chapter.folder
        names = [f"{key}.flac" for key in chapter.sentences]
        names.append(f"{chapter.speaker.id}-{chapter.id}.trans.txt")
        missing += [n for n in names if not (folder / n).is_file()]
    missing += [LM_TEXT] if not (root / LM_TEXT).is_file() else []
    if missing:
        raise UserError(
            f"{root}: {len(missing)} files are missing ({', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''}); remove the folder and run again"
        )


def _summary(plan: Plan) -> str:
    return ", ".join(
        f"{part} {len(plan.sentences(part))} utterances of "
        f"{sum(s.part == part for s in plan.speakers)} speakers"
        for part in PARTS
    )


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
