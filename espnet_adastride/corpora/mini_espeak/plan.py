"""Who says what in the demo's corpus: speakers and sentences of every part.

No sentence and no voice variant occurs in two parts, no sentence of dev and test in the
language model's text, and every word of dev and test occurs in train: the word error
rate then measures how well the sounds were learnt.
"""

import hashlib
import math
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from espnet_adastride.corpora.espeak import Voice
from espnet_adastride.corpora.mini_espeak.grammar import (
    PARTS,
    Grammar,
    transcript,
    words_of,
)
from espnet_adastride.errors import UserError

DEFAULT_MINUTES = {"train-mini": 90.0, "dev-mini": 4.0, "test-mini": 8.0}
MAX_SPEAKERS = {"train-mini": 162, "dev-mini": 8, "test-mini": 16}
FIRST_SPEAKER = {"train-mini": 1001, "dev-mini": 2001, "test-mini": 3001}
DEFAULT_LM_SENTENCES = 10000
LM_TEXT = "mini-lm-norm.txt"  # LibriSpeech's is librispeech-lm-norm.txt
#: a small corpus has fewer speakers, not fewer utterances per speaker
MIN_SPEAKER_UTTERANCES = 8
CHAPTER_UTTERANCES = 20

RATES = (130, 185)  # words per minute
PITCHES = (30, 70)
PITCH_RANGES = (30, 75)


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

    @property
    def transcripts(self) -> str:
        """Name of the file of its transcripts."""
        return f"{self.speaker.id}-{self.id}.trans.txt"


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
    source, allowed = grammar, grammar.vocabulary()
    for part in PARTS:
        if not (math.isfinite(minutes[part]) and minutes[part] > 0):
            raise UserError(
                f"{part} of {minutes[part]:g} minutes: give a length above 0"
            )
        seconds = minutes[part] * 60
        drawn = _draw_sentences(part, source, seed, taken, allowed, seconds=seconds)
        if part == PARTS[0]:
            allowed = {word for sentence in drawn for word in words_of(sentence)}
            source = grammar.restricted(allowed)
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
    rng = generator(seed, part, "sentences")
    counts: Dict[str, int] = Counter()
    drawn, total, misses = [], 0.0, 0
    while total < seconds and len(drawn) < number:
        # Of several candidates, use the one with the rarest word so far: words that
        # train hardly contains would make the test a matter of luck.
        candidates = [grammar.draw(rng) for _ in range(5) if grammar.topics]
        candidates = [
            s
            for s in candidates
            if transcript(s) not in taken and allowed.issuperset(words_of(s))
        ]
        if not candidates:
            misses += 1
            if misses <= 1000:
                continue
            if math.isfinite(number):
                break  # a small grammar: use all
            raise UserError(
                f"{part}: the grammar only has {len(drawn)} new sentences for it; "
                "reduce its length, or increase that of train-mini"
            )
        misses = 0
        sentence = min(candidates, key=lambda s: min(counts[w] for w in words_of(s)))
        taken.add(transcript(sentence))
        counts.update(words_of(sentence))
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
    rng = generator(seed, part, "speakers")
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


def generator(seed: int, *names: str) -> random.Random:
    """Return the random generator of a named item."""
    return random.Random(seed_of(seed, *names))


def seed_of(seed: int, *names: str) -> int:
    """Return the seed of a named item."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big")
