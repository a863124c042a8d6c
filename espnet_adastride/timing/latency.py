"""Latency of a streaming recogniser: from the end of a word until it is shown.

Samples are assumed to arrive as they are spoken: those of second t at second t. Work on
a chunk begins when the previous work is done, and takes its measured time:

    done_i = max(arrived_i, done_{i-1}) + spent_i

The numbers are therefore the same for a file that is fed faster than real time and for
a microphone. The latency of a word is the time at which its last token was shown, minus
the time at which the word ended. numpy only.
"""

from typing import Dict, List, NamedTuple, Sequence

import numpy as np

from espnet_adastride.errors import counted


class Clock:
    """The clock of a stream, from seconds of audio and seconds of work.

    Attributes:
        now: seconds after the first sample at which the last work was done.
        spent: seconds of work, in all.
        longest: seconds of the longest piece of work.
    """

    def __init__(self):
        self.now = self.spent = self.longest = 0.0

    def work(self, arrived: float, seconds: float) -> float:
        """Return the time at which the work on the available audio is done.

        Args:
            arrived: seconds of audio so far.
            seconds: duration of the work.
        """
        self.now = max(self.now, arrived) + seconds
        self.spent += seconds
        self.longest = max(self.longest, seconds)
        return self.now


class Latency(NamedTuple):
    """Latencies of one stream.

    Attributes:
        words: seconds, one per word.
        end: seconds from the last sample to the final transcript.
        duration: seconds of audio.
        spent: seconds of work.
        longest: seconds of the longest piece of work.
    """

    words: List[float]
    end: float
    duration: float
    spent: float
    longest: float


def summarise_latency(streams: Sequence[Latency]) -> Dict[str, float]:
    """Return {name: seconds} over all words, and over the ends of the streams.

    ``words`` is the number of words; ``mean``, ``median`` and ``p95`` are of their
    latencies; ``end`` is the mean of the ends; ``longest`` the longest piece of work;
    ``rtf`` the work as a share of the audio. Without words, their latencies are nan.
    """
    words = np.array([late for stream in streams for late in stream.words])
    none = not words.size
    duration = sum(stream.duration for stream in streams)
    return {
        "words": len(words),
        "mean": float("nan") if none else float(words.mean()),
        "median": float("nan") if none else float(np.median(words)),
        "p95": float("nan") if none else float(np.percentile(words, 95)),
        "end": float(np.mean([stream.end for stream in streams])),
        "longest": max(stream.longest for stream in streams),
        "rtf": sum(stream.spent for stream in streams) / max(duration, 1e-9),
    }


def describe_latency(streams: Sequence[Latency]) -> str:
    """Return :func:`summarise_latency` in one line."""
    found = summarise_latency(streams)
    line = counted(found["words"], "word")
    if found["words"]:
        line += (
            f", shown {found['median']:.2f} s after they ended (median; mean "
            f"{found['mean']:.2f}, 95th percentile {found['p95']:.2f})"
        )
    return (
        f"{line}; final text {found['end']:.2f} s after the last sample; longest "
        f"computation {found['longest']:.2f} s, RTF {found['rtf']:.2f}"
    )
