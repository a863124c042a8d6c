"""Transcripts with times, and their file formats.

text, JSON, subtitles (SRT, WebVTT) and NIST's CTM, one word per line::

    RECORDING CHANNEL START DURATION WORD CONFIDENCE
"""

import contextlib
import html
import json
import math
import re
import unicodedata
from itertools import islice
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from espnet_adastride.errors import UserError
from espnet_adastride.files import AUDIO_SUFFIXES, PathLike, read_utf8, shown
from espnet_adastride.timing.ctc import Timed, spread_words

#: maximum columns of a line (of two) and seconds of a subtitle; a pause of this length
#: ends it
SUBTITLE_LINE = 42
SUBTITLE_SECONDS = 6.0
SUBTITLE_PAUSE = 0.8
#: minimum seconds of a subtitle, unless the next one starts earlier
SUBTITLE_SHORTEST = 1.0

#: what aligners write where nobody speaks
SILENT_WORDS = ("<eps>", "sil", "sp", "spn", "<sil>")
#: what they write for a word that is not in their dictionary
UNKNOWN_WORD = "<unk>"


class Segment(NamedTuple):
    """A part of a recording that was decoded separately.

    Attributes:
        start: in seconds.
        end: in seconds.
        text: transcript.
        words: with times in the recording.
        tokens: the same for the model's tokens.
        times: source of the word times: ``ctc``; ``even``: CTC frames spread evenly
            over the segment, because the times of ESPnet's own input layer or of the
            frontend are unknown; ``spread``: by letters over the segment, if the CTC
            branch is missing or cannot align the words; or ``none``: times were not
            requested.
    """

    start: float
    end: float
    text: str
    words: List[Timed]
    tokens: List[Timed]
    times: str


class Transcript(NamedTuple):
    """The transcript of a recording.

    Attributes:
        name: name of the recording; non-UTF-8 bytes are escaped.
        duration: in seconds.
        text: of all segments, joined by spaces.
        words: of all segments.
        segments: in order; together they cover the recording.
        silent: whether the recording is silent.
    """

    name: str
    duration: float
    text: str
    words: List[Timed]
    segments: List[Segment]
    silent: bool = False


def join_segments(
    name: str, duration: float, segments: Sequence[Segment], silent: bool = False
) -> Transcript:
    """Return the transcript of the segments."""
    name = shown(name)
    text = " ".join(s.text for s in segments if s.text)
    words = [word for segment in segments for word in segment.words]
    return Transcript(name, duration, text, words, list(segments), silent)


def _timed_json(items: Iterable[Timed], what: str) -> List[dict]:
    return [
        {
            "text": item.text,
            what: item.text,  # the only key in earlier files
            "start": round(item.start, 3),
            "end": round(item.end, 3),
            "score": round(item.score, 4),
        }
        for item in items
    ]


def to_text(transcript: Transcript) -> str:
    """Return the words in one line."""
    return transcript.text + "\n"


def to_dict(transcript: Transcript) -> dict:
    """Return the whole transcript as JSON types; times in seconds.

    The keys are the names of the attributes of :class:`Transcript`, :class:`Segment`
    and :class:`Timed`. In addition to ``text``, a word has ``word`` and a token
    ``token``, the keys of earlier files.
    """
    return {
        "name": transcript.name,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "silent": transcript.silent,
        "words": _timed_json(transcript.words, "word"),
        "segments": [
            {
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                "times": segment.times,
                "words": _timed_json(segment.words, "word"),
                "tokens": _timed_json(segment.tokens, "token"),
            }
            for segment in transcript.segments
        ],
    }


def to_json(transcript: Transcript) -> str:
    """Return :func:`to_dict` as one indented JSON object."""
    return json.dumps(to_dict(transcript), ensure_ascii=False, indent=1) + "\n"


def recording_id(name: str) -> str:
    """Return a file's name without folder and suffix, and without white space."""
    path = Path(name)
    stem = path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name
    return re.sub(r"\s", "_", stem) or "-"


def ctm_lines(name: str, items: Iterable[Timed]) -> List[str]:
    """Return one line per word (or token) of an utterance or a recording.

    Args:
        name: its id, unchanged except for white space, which CTM does not allow.
        items: its words.
    """
    name = re.sub(r"\s", "_", shown(name))
    lines = []
    for item in items:
        # the end must not change by rounding twice
        start, end = round(item.start, 3), round(item.end, 3)
        word = re.sub(r"\s", "_", item.text) or "_"
        lines.append(f"{name} 1 {start:.3f} {end - start:.3f} {word} {item.score:.4f}")
    return lines


def to_ctm(transcript: Transcript) -> str:
    """Return one line per word, nothing for silence."""
    name = recording_id(transcript.name)
    return "".join(f"{x}\n" for x in ctm_lines(name, transcript.words))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def clock(seconds: float, comma: str) -> str:
    """Return ``01:02:03,456``, with the separator of SRT (``,``) or WebVTT (``.``)."""
    minutes, rest = divmod(_milliseconds(seconds), 60000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{comma}{rest % 1000:03d}"


def display_width(text: str) -> int:
    """Return the columns of a text on a screen: wide letters 2, combining marks 0."""
    return sum(
        (
            0
            if unicodedata.combining(c)
            else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        )
        for c in text
    )


def _parts(segment: Segment) -> Iterator[Timed]:
    """Yield the words, each with a space before it; too long ones token by token.

    Chinese and Japanese have no spaces: a whole segment is one word.
    """
    for word in segment.words:
        own, width = [word], display_width(word.text)
        if width > SUBTITLE_LINE * (1 if width > len(word.text) else 2):
            own = [
                token._replace(text=token.text.strip("\u2581"))
                for token in segment.tokens
                if word.start <= token.start and token.end <= word.end
            ]
            if "".join(token.text for token in own) != word.text:
                own = spread_words(word.text, word.start, word.end)
        yield own[0]._replace(text=" " + own[0].text)
        yield from own[1:]


def subtitles(transcript: Transcript) -> List[Tuple[float, float, List[str]]]:
    """Return (start, end, lines) of each subtitle, in order, without overlap.

    Each is shown for a time, because players drop those that are not: a word of 0 ms at
    the end of the recording is shown earlier, or with those before it.
    """
    groups: List[List[Timed]] = []
    for segment in transcript.segments:
        phrase: List[Timed] = []
        for word in _parts(segment):
            if phrase and word.start - phrase[-1].end >= SUBTITLE_PAUSE:
                groups += _cues(phrase)
                phrase = []
            phrase.append(word)
        groups += _cues(phrase)
    placed, free = [], transcript.duration
    for index in reversed(range(len(groups))):
        group = groups[index]
        start, last = group[0].start, group[-1].end
        end = max(last, min(start + SUBTITLE_SHORTEST, free))
        if _milliseconds(start) == _milliseconds(end):
            before = groups[index - 1][-1].end if index else 0.0
            if index and _milliseconds(before) == _milliseconds(end):
                groups[index - 1] += group
                continue
            start = _earlier(before, end)
        placed.append((start, end, _lines(group)))
        free = start
    return placed[::-1]


def _earlier(before: float, end: float) -> float:
    """Return a start between the end of the last word before and an end, in s."""
    first, last = _milliseconds(before), _milliseconds(end)
    return max((first + last) // 2, last - _milliseconds(SUBTITLE_SHORTEST)) / 1000


def _fits(words: Sequence[Timed]) -> bool:
    """Return whether words fit into one subtitle: two lines, and not too long."""
    long = words[-1].end - words[0].start > SUBTITLE_SECONDS
    return len(words) == 1 or (len(_lines(words)) <= 2 and not long)


def _cues(phrase: Sequence[Timed]) -> List[List[Timed]]:
    """Cut speech without pauses into subtitles, without orphans.

    It makes as few as possible, filled from the front. If the last one would be a
    single word, the last two share their words evenly.
    """
    cues: List[List[Timed]] = []
    for word in phrase:
        if cues and _fits([*cues[-1], word]):
            cues[-1].append(word)
        else:
            cues.append([word])
    if len(cues) > 1:
        both = cues[-2] + cues[-1]
        cuts = range(1, len(both))

        def uneven(cut):
            sizes = [sum(display_width(w.text) for w in p) for p in split(cut)]
            return abs(sizes[0] - sizes[1])

        def split(cut):
            return both[:cut], both[cut:]

        fitting = [cut for cut in cuts if all(map(_fits, split(cut)))]
        if 2 * len(cues[-1]) < len(cues[-2]) and fitting:
            cues[-2:] = map(list, split(min(fitting, key=uneven)))
    return cues


def _lines(words: Sequence[Timed]) -> List[str]:
    lines: List[str] = []
    for word in words:
        if lines and display_width(lines[-1] + word.text) <= SUBTITLE_LINE:
            lines[-1] += word.text
        else:
            lines.append(word.text.lstrip(" "))
    return lines


def to_srt(transcript: Transcript) -> str:
    """Return SubRip subtitles."""
    return "\n".join(
        f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n" + _block(lines)
        for number, (start, end, lines) in enumerate(subtitles(transcript), 1)
    )


def to_vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles."""
    blocks = "".join(
        f"\n{clock(start, '.')} --> {clock(end, '.')}\n"
        # &, < and > would be read as markup
        + html.escape(_block(lines), quote=False)
        for start, end, lines in subtitles(transcript)
    )
    return "WEBVTT\n" + blocks


def _block(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


#: writers of a transcript by file suffix
FORMATS: Dict[str, Callable[[Transcript], str]] = {
    "txt": to_text,
    "json": to_json,
    "srt": to_srt,
    "vtt": to_vtt,
    "ctm": to_ctm,
}

# -------------------------------------------------------- reading and comparing


def read_ctm(path: PathLike) -> Dict[str, List[Timed]]:
    """Return the words of each recording, in order of time.

    Raises:
        UserError: no such file, a line that is not CTM (names file and line), or
            several channels of a recording, whose words would be mixed.
    """
    content = read_utf8(path)
    words: Dict[str, List[Timed]] = {}
    channels: Dict[str, str] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        fields = line.split()
        try:
            start, length = float(fields[2]), float(fields[3])
            score = float(fields[5]) if len(fields) > 5 else 1.0
            word = Timed(fields[4], start, round(start + length, 6), score)
            if not 0 <= start <= word.end < math.inf:
                raise ValueError
        except (IndexError, ValueError):
            raise UserError(
                f"{path}:{number}: not CTM (RECORDING CHANNEL START DURATION WORD, in "
                f"seconds): {line.strip()!r}"
            ) from None
        name, channel = fields[:2]
        other = channels.setdefault(name, channel)
        if channel != other:
            raise UserError(
                f"{path}:{number}: {name} has two channels, {other} and {channel}; "
                f"give one: awk '$2 == \"{other}\"' {path}"
            )
        words.setdefault(name, []).append(word)
    for timed in words.values():
        timed.sort(key=lambda w: (w.start, w.end))
    return words


def read_textgrid(path: PathLike, tier: str = "words") -> List[Timed]:
    """Return the intervals of a TextGrid tier; empty intervals are silence.

    As Praat does, it reads what is in quotes and the free-standing numbers: the long
    and the short format differ in the words between them.

    Args:
        path: the file.
        tier: ``words``, or ``phones``.

    Raises:
        UserError: if it cannot be read, is cut off, or has no such tier.
    """
    tokens = re.finditer(r'"((?:[^"]|"")*)"|(?<!\S)(-?[\d.]+\S*)', read_utf8(path))
    values = (float(t[2]) if t[2] else t[1].replace('""', '"') for t in tokens)
    try:
        *_, tiers = islice(values, 5)  # "ooTextFile" "TextGrid" start end tiers
        for _ in range(int(tiers)):
            kind, name, _, _, size = islice(values, 5)
            width = 3 if kind == "IntervalTier" else 2  # of points: time, label
            items = [tuple(islice(values, width)) for _ in range(int(size))]
            if (kind, name) == ("IntervalTier", tier):
                timed = [(text.strip(), float(a), float(b)) for a, b, text in items]
                return [Timed(*one, 1.0) for one in timed if one[0]]
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"{path}: not a TextGrid, or cut off; save it again with Praat"
        ) from None
    raise UserError(f'{path}: no tier named "{tier}"; is it a TextGrid of {tier}?')


def read_reference(path: PathLike) -> Dict[str, List[Timed]]:
    """Return the words of each utterance of a CTM, or of a folder of TextGrids.

    TextGrids are named ``UTTERANCE.TextGrid`` and may be in sub-folders. Silences are
    left out.
    """
    if not Path(path).is_dir():
        return spoken(read_ctm(path))
    files = _textgrids(path)
    if not files:
        raise UserError(f"{path}: no *.TextGrid in it; give word alignments or a CTM")
    return spoken({key: read_textgrid(file) for key, file in files.items()})


def spoken(words: Dict[str, List[Timed]]) -> Dict[str, List[Timed]]:
    """Leave out what aligners write where nobody speaks."""
    return {
        key: [word for word in timed if word.text.lower() not in SILENT_WORDS]
        for key, timed in words.items()
    }


def _textgrids(folder: PathLike) -> Dict[str, Path]:
    """Return the TextGrids below a folder by utterance.

    Raises:
        UserError: two have the same name.
    """
    files: Dict[str, Path] = {}
    for file in sorted(Path(folder).rglob("*.TextGrid")):
        other = files.setdefault(file.stem, file)
        if other != file:
            raise UserError(
                f"{file} and {other} have the same name, which must be the utterance's "
                "id: rename them, or give the folder of one of them"
            )
    return files


class TimedReference(NamedTuple):
    """Words and phones by utterance, and their source."""

    words: Dict[str, List[Timed]]
    phones: Dict[str, List[Timed]]
    source: str


def read_timed_reference(path: PathLike) -> TimedReference:
    """Return the words, and any phones, of a CTM or of TextGrids; silences left out.

    Raises:
        UserError: if it cannot be read.
    """
    path = Path(path)
    if path.suffix == ".TextGrid":
        files = {path.stem: path}
        words = spoken({path.stem: read_textgrid(path)})
    else:
        words = read_reference(path)
        files = _textgrids(path) if path.is_dir() else {}
    phones = {}
    for key, file in files.items():
        with contextlib.suppress(UserError):  # not every TextGrid has this tier
            phones[key] = read_textgrid(file, "phones")
    return TimedReference(words, phones, path.name)


class TimeErrors(NamedTuple):
    """Errors of word times relative to a reference, in ms.

    Attributes:
        words: compared.
        starts: (words,) start minus the reference's start; late is positive.
        ends: the same for ends.
        different: excluded utterances, whose words differ from the reference.
        missing: excluded utterances without a reference.
    """

    words: int
    starts: np.ndarray
    ends: np.ndarray
    different: List[str]
    missing: List[str]


def compare_times(
    words: Dict[str, List[Timed]], reference: Dict[str, List[Timed]]
) -> TimeErrors:
    """Return the errors of word boundaries, over utterances with the same words.

    Case is ignored. The reference's :data:`UNKNOWN_WORD` stands for any one word, whose
    own times are not compared: aligners place it less exactly.
    """
    starts: List[float] = []
    ends: List[float] = []
    different, missing = [], []
    for key, ours in words.items():
        if key not in reference:
            missing.append(key)
            continue
        theirs = reference[key]
        known = [(a, b) for a, b in zip(ours, theirs) if b.text.lower() != UNKNOWN_WORD]
        differ = any(a.text.lower() != b.text.lower() for a, b in known)
        if len(ours) != len(theirs) or differ:
            different.append(key)
            continue
        starts += [1000 * (a.start - b.start) for a, b in known]
        ends += [1000 * (a.end - b.end) for a, b in known]
    return TimeErrors(len(starts), np.array(starts), np.array(ends), different, missing)


def summarise_errors(errors: np.ndarray) -> Dict[str, float]:
    """Return median and 90th percentile of the absolute errors, and the median error.

    Args:
        errors: (n,) in ms, n >= 1.
    """
    size = np.abs(errors)
    return {
        "median": float(np.median(size)),
        "p90": float(np.percentile(size, 90)),
        "bias": float(np.median(errors)),
    }
