"""Sentences of the demo's corpus: templates, and classes of words that fill them."""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Set, Tuple

from espnet_adastride.config import read_yaml
from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike

GRAMMAR = Path(__file__).parents[1] / "mini_espeak_grammar.yaml"
PARTS = ("train-mini", "dev-mini", "test-mini")
MIN_WORDS, MAX_WORDS = 3, 14


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
    def read(cls, path: PathLike = GRAMMAR) -> "Grammar":
        """Read the grammar file; its header explains the format.

        Raises:
            UserError: A class is used but not defined, or a template has
                characters not allowed in transcripts.
        """
        content = read_yaml(path)

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
                raise UserError(
                    f"{path}: unexpected characters in {text!r}; use a to z, ', "
                    "commas, {class} and a question mark at the end"
                )
            for name in _fields(text):
                if name not in grammar.classes:
                    raise UserError(
                        f"{path}: no class {name!r} ({text!r}); define it in classes"
                    )
        return grammar

    def _texts(self) -> List[str]:
        groups = (*self.classes.values(), *self.topics.values())
        return [text for group in groups for text in group]

    def vocabulary(self) -> Set[str]:
        """All words that occur in the grammar."""
        return {word for text in self._texts() for word in words_of(text)} | {"an"}

    def restricted(self, words: Set[str]) -> "Grammar":
        """The part of the grammar that only uses ``words``."""
        classes = dict(self.classes)
        while True:

            def possible(text: str) -> bool:
                return words.issuperset(words_of(text)) and all(
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
            if MIN_WORDS <= len(words_of(sentence)) <= MAX_WORDS:
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


def words_of(text: str) -> List[str]:
    """Return the words of a sentence or a template, without its fields."""
    return re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", text))


def transcript(sentence: str) -> str:
    """LibriSpeech's form of a sentence: upper case, no punctuation."""
    return " ".join(words_of(sentence)).upper()
