"""A recording in pieces, and a piece's CTC path as words with times.

Shared by ``transcribe.Transcriber`` and ``recogniser.OnnxTranscriber``.
"""

from numbers import Real
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np

from espnet_adastride.corpora.audio import Say, log_line
from espnet_adastride.corpora.recordings import (
    cut_at_pauses,
    is_silent,
    prepare,
    read_audio,
)
from espnet_adastride.errors import AudioError
from espnet_adastride.timing.ctc import (
    path_spans,
    shifted,
    timed_tokens,
    timed_words,
    words_of_tokens,
)
from espnet_adastride.timing.transcripts import Segment, Transcript, join_segments

#: maximum seconds of a piece, unless the training utterances were shorter
MAX_SEGMENT = 20.0


def piece_seconds(
    lengths: Optional[Sequence[float]], max_segment: Optional[float] = None
) -> Tuple[float, float]:
    """Return the maximum seconds of a piece, and those up to which nothing is cut.

    Args:
        lengths: (usual, longest) seconds of the training's utterances; None: unknown.
        max_segment: given by the user instead.
    """
    if lengths is None or max_segment is not None:
        most = max_segment or MAX_SEGMENT
        return most, most
    usual, longest = lengths
    most = min(max(usual, 1.0), MAX_SEGMENT)
    return most, min(max(longest, most), MAX_SEGMENT)


def check_max_segment(seconds: Optional[float]) -> None:
    """Raise a ValueError unless this is None or a number of seconds, 1 or more."""
    number = isinstance(seconds, Real)
    if seconds is not None and not (number and 1 <= seconds < float("inf")):
        raise ValueError(
            f"max_segment must be a number of seconds, 1 or more, got {seconds!r}"
        )


class PieceTranscriber:
    """Transcribes recordings of any length piece by piece; a subclass says how.

    Args:
        trained: the model; has its sampling ``rate`` in Hz.
        lengths, max_segment: see :func:`piece_seconds`.
        say: called with warnings, one line each; None: log them.

    Raises:
        ValueError: for a max_segment that is no number of seconds, 1 or more.

    Attributes:
        max_segment: seconds of a piece at most.
        whole: seconds up to which a recording is not cut.
    """

    def __init__(
        self,
        trained: Any,
        lengths: Optional[Sequence[float]],
        max_segment: Optional[float],
        say: Optional[Say],
    ):
        check_max_segment(max_segment)
        self.trained, self.say = trained, say or log_line
        self.max_segment, self.whole = piece_seconds(lengths, max_segment)
        if lengths and max_segment and max_segment > max(lengths[1], 1.0):
            self.say(
                f"pieces of up to {max_segment:g} s, and the model was trained on "
                f"utterances of up to {lengths[1]:.1f} s: expect more errors; "
                f"{max(lengths[0], 1.0):.1f} s is the default of max_segment"
            )

    def __call__(
        self,
        audio: Union[str, Path, np.ndarray],
        rate: Optional[int] = None,
        name: Optional[str] = None,
    ) -> Transcript:
        """Transcribe a recording.

        Args:
            audio: a file, ``-`` for standard input, or samples (n,) or (n, channels),
                floats in [-1, 1].
            rate: samples per second of an array; None: the model's.
            name: of the transcript; None: the file's path.

        Returns:
            Transcript: text, words and segments; times in seconds.

        Raises:
            AudioError: in one line, if the recording cannot be used.
        """
        wanted = self.trained.rate
        if isinstance(audio, (str, Path)):
            name = name or str(audio)
            wave = read_audio(audio, wanted, say=self.say)
        else:
            name = name or "the recording"
            rate = wanted if rate is None else rate
            if not (isinstance(rate, Real) and 0 < rate < float("inf")):
                raise AudioError(f"{name}: {rate!r} samples per second; give its rate")
            wave = prepare(audio, rate, wanted, name, self.say)
        return self.transcribe(wave, name)

    def pieces(self, wave: np.ndarray) -> List[Tuple[int, int]]:
        """Return [begin, end) in samples of the pieces that are encoded one by one."""
        if len(wave) <= self.whole * self.trained.rate:
            return [(0, len(wave))]
        return cut_at_pauses(wave, self.trained.rate, self.max_segment)

    def transcribe(
        self,
        wave: np.ndarray,
        name: str,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> Transcript:
        """Transcribe samples (n,) at the model's rate; silent pieces are skipped.

        ``progress`` is called with the seconds of each piece when it is done.
        """
        rate, segments = self.trained.rate, []
        for begin, end in self.pieces(wave):
            part, start = wave[begin:end], begin / rate
            if is_silent(part):
                segments.append(Segment(start, end / rate, "", [], [], "ctc"))
            else:
                segments.append(self._segment(part, start, name))
            progress(len(part) / rate)
        return join_segments(name, len(wave) / rate, segments, is_silent(wave))

    def _segment(self, wave: np.ndarray, start: float, name: str) -> Segment:
        raise NotImplementedError


def ctc_segment(
    path, scores, boundaries, token_list, blank: int, to_text, span, kind: str = "ctc"
) -> Segment:
    """Return the segment of a CTC path, with times.

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
        " ".join(words),  # one space each: a model may give several
        shifted(timed_words(words, owners, tokens), span[0]),
        shifted(tokens, span[0]),
        kind,
    )
