"""A recording in pieces, and a piece's CTC path as words with times.

Shared by ``transcribe.Transcriber`` and ``recogniser.OnnxTranscriber``.
"""

from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.corpora.recordings import cut_at_pauses, is_silent
from espnet_adastride.timing.ctc import (
    path_spans,
    shifted,
    timed_tokens,
    timed_words,
    words_of_tokens,
)
from espnet_adastride.timing.transcripts import Segment, Transcript, join_segments

#: seconds of a piece at most, where the training says no less
MAX_SEGMENT = 20.0


def piece_seconds(
    lengths: Optional[Sequence[float]], max_segment: Optional[float] = None
) -> Tuple[float, float]:
    """Return the seconds of a piece at most, and those up to which nothing is cut.

    Args:
        lengths: (usual, longest) seconds of the training's utterances; None: unknown.
        max_segment: what is asked for instead.
    """
    if lengths is None or max_segment is not None:
        most = max_segment or MAX_SEGMENT
        return most, most
    usual, longest = lengths
    most = min(max(usual, 1.0), MAX_SEGMENT)
    return most, min(max(longest, most), MAX_SEGMENT)


def cut(
    wave: np.ndarray, rate: int, max_segment: float, whole: float
) -> List[Tuple[int, int]]:
    """Return [begin, end) in samples of the pieces; see :func:`piece_seconds`."""
    if len(wave) <= whole * rate:
        return [(0, len(wave))]
    return cut_at_pauses(wave, rate, max_segment)


def transcribe_pieces(
    wave: np.ndarray,
    rate: int,
    pieces: Sequence[Tuple[int, int]],
    hear: Callable[[np.ndarray, float, str], Segment],
    name: str,
    progress: Callable[[float], None],
) -> Transcript:
    """Return the transcript of a recording, piece by piece; silence is not heard.

    Args:
        wave: (n,) samples.
        rate: samples per second.
        pieces: of :func:`cut`.
        hear: returns the segment of (samples, begin in seconds, name).
        name: of the transcript.
        progress: told the seconds of each piece when it is done.
    """
    segments = []
    for begin, end in pieces:
        part, start = wave[begin:end], begin / rate
        if is_silent(part):
            segments.append(Segment(start, end / rate, "", [], [], "ctc"))
        else:
            segments.append(hear(part, start, name))
        progress(len(part) / rate)
    return join_segments(name, len(wave) / rate, segments, is_silent(wave))


def ctc_segment(
    path, scores, boundaries, token_list, blank: int, to_text, span, kind: str = "ctc"
) -> Segment:
    """Return the segment that a CTC path says, with times.

    Args:
        path: a token's number for each frame.
        scores: log probabilities of these.
        boundaries: seconds at which the frames begin and end, from the segment's begin.
        token_list: the model's tokens.
        blank: number of the blank.
        to_text: returns the text of tokens.
        span: (begin, end) of the segment in seconds.
        kind: of the times.
    """
    tokens = timed_tokens(path_spans(path, blank), scores, boundaries, token_list)
    names = [token.text for token in tokens]
    words, owners = words_of_tokens(names, to_text)
    return Segment(
        *span,
        to_text(names).strip(),
        shifted(timed_words(words, owners, tokens), span[0]),
        shifted(tokens, span[0]),
        kind,
    )
