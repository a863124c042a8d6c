"""The output folder of ``align``: finished utterances survive an interruption.

``alignment.json`` has, besides the times, what they were made from: a fingerprint of
model and options, and one of the recording and transcript of each utterance. Utterances
with the same fingerprints are not aligned again.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Dict, Iterable, List

from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, read_utf8, write_text
from espnet_adastride.recipe.stamps import hash_listing
from espnet_adastride.timing.ctc import Timed
from espnet_adastride.timing.transcripts import Segment, Transcript, ctm_lines, to_dict

#: seconds between two versions of the files while utterances are aligned
BETWEEN_WRITES = 60.0


def utterance_fingerprint(audio: str, text: str) -> str:
    """Return a hash of a recording's path, size and time, and of its transcript.

    ``""`` for standard input and pipes, which may hold something else next time.
    """
    if not os.path.isfile(os.fsencode(audio)):
        return ""
    spoken = " ".join(text.split())
    content = hash_listing([audio]) + spoken
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def _timed(items: Iterable[dict]) -> List[Timed]:
    return [Timed(x["text"], x["start"], x["end"], x["score"]) for x in items]


class Alignments:
    """The aligned utterances of one folder.

    Args:
        folder: the output folder.
        times: ``positions`` or ``uniform``, kept in ``alignment.json``.
        made_from: :func:`~espnet_adastride.recipe.stamps.model_fingerprint`.
    """

    def __init__(self, folder: PathLike, times: str, made_from: str):
        self.folder, self.times, self.made_from = Path(folder), times, made_from
        self.segments: Dict[str, Segment] = {}
        self.inputs: Dict[str, str] = {}
        self.written = time.monotonic()

    def read(self, wanted: Dict[str, str]) -> None:
        """Take over utterances that were aligned before.

        Args:
            wanted: :func:`utterance_fingerprint` by utterance; others are left out.
        """
        try:
            content = json.loads(read_utf8(self.folder / "alignment.json"))
            if content["made_from"] != self.made_from:
                return
            for utterance in content["utterances"]:
                key, made_from = utterance["name"], utterance["made_from"]
                if not made_from or wanted.get(key) != made_from:
                    continue
                (part,) = utterance["segments"]
                self.segments[key] = Segment(
                    part["start"],
                    part["end"],
                    part["text"],
                    _timed(part["words"]),
                    _timed(part["tokens"]),
                    part["times"],
                )
                self.inputs[key] = made_from
        except (UserError, ValueError, KeyError, TypeError):
            return  # missing, or of an earlier version: all is aligned again

    def add(self, key: str, segment: Segment, made_from: str) -> None:
        """Add an utterance; the files are written at most once a minute."""
        self.segments[key], self.inputs[key] = segment, made_from
        if time.monotonic() - self.written >= BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Write words.ctm, tokens.ctm and alignment.json, sorted by utterance.

        Without any utterance nothing is written: an earlier run's files are kept.
        """
        if not self.segments:
            return
        ordered = dict(sorted(self.segments.items()))
        for what in ("words", "tokens"):
            text = ""
            for key, segment in ordered.items():
                for line in ctm_lines(key, getattr(segment, what)):
                    text += line + "\n"
            write_text(self.folder / f"{what}.ctm", text)
        utterances = []
        for key, segment in ordered.items():
            whole = Transcript(key, segment.end, segment.text, segment.words, [segment])
            utterances.append({**to_dict(whole), "made_from": self.inputs[key]})
        content = {
            "times": self.times,
            "made_from": self.made_from,
            "utterances": utterances,
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        write_text(self.folder / "alignment.json", text + "\n")
        self.written = time.monotonic()
