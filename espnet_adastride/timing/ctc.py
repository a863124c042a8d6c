"""Times of tokens and words: from CTC frames to seconds.

CTC outputs a token in the frames where it is the best, or where the best path through a
given transcript has it. The times of the frames come from ``boundaries.py``, because
adaptive strides do not space them evenly.

1. a transcript's best path through the frames      force_align
2. runs of a path                                   path_spans
3. runs to tokens in seconds                        timed_tokens
4. tokens to words                                  words_of_tokens, timed_words

A token lasts for the frames labelled with it: blanks around it belong to no
token. A word lasts from its first token to its last one.
"""

import math
from typing import TYPE_CHECKING, Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.errors import AlignmentError

if TYPE_CHECKING:  # so that commands that only read and write times start without torch
    import torch


#: frames x states above which the alignment only keeps checkpoints: 10 minutes of
#: characters at 25 frames a second
MOST_CELLS = 2 * 10**8


class Timed(NamedTuple):
    """A token or word with its times.

    Attributes:
        text: the token, or the word.
        start: in seconds.
        end: in seconds, >= start.
        score: mean probability of its frames, 0 to 1.
    """

    text: str
    start: float
    end: float
    score: float


class Span(NamedTuple):
    """Frames [first, end) of a path with one token."""

    token: int
    first: int
    end: int


def needed_frames(ids: Sequence[int]) -> int:
    """Return the minimum number of CTC frames for the tokens: repeats need a blank."""
    return len(ids) + sum(a == b for a, b in zip(ids, ids[1:]))


def force_align(
    log_probs: "torch.Tensor", ids: Sequence[int], blank: int = 0
) -> Tuple[List[int], List[float]]:
    """Return the most probable CTC path of the tokens.

    Args:
        log_probs: (T, V) log probabilities of one utterance.
        ids: token ids, without blanks; may be empty.
        blank: id of the blank.

    Returns:
        The label of each frame (T,), and its log probability (T,).

    Raises:
        AlignmentError: if the tokens need more than T frames.
        ValueError: for an id that is the blank or not below V.
    """
    frames, vocabulary = log_probs.shape
    for token in ids:
        if token == blank or not 0 <= token < vocabulary:
            raise ValueError(f"token id {token} cannot be aligned (blank is {blank})")
    if needed_frames(ids) > frames:
        raise AlignmentError(
            f"{frames} frames are too few for {len(ids)} tokens, which need "
            f"{needed_frames(ids)}: check the transcript; if it is right, the stride "
            "is too large for it (try a lower --stride)"
        )
    if not ids:
        return [blank] * frames, log_probs[:, blank].tolist()
    import torch
    from torchaudio.functional import forced_align

    # -inf in a score would make all paths equal
    log_probs = log_probs.detach().float().clamp(min=-1e4).cpu()
    if frames * (2 * len(ids) + 1) > MOST_CELLS:
        return _long_path(log_probs.numpy(), np.array(ids), blank)
    path, scores = forced_align(
        log_probs[None].contiguous(), torch.tensor([list(ids)]), blank=blank
    )
    return path[0].tolist(), scores[0].tolist()


def _long_path(
    log_probs: np.ndarray, ids: np.ndarray, blank: int
) -> Tuple[List[int], List[float]]:
    """Return the result of :func:`force_align` in memory of about 2 sqrt(T) (2 L + 1).

    The forward pass only keeps the scores of every K-th frame; the backward pass
    recomputes one stretch of K frames at a time.

    Args:
        log_probs: (T, V) float32.
        ids: (L,) token ids, L >= 1.
        blank: id of the blank.
    """
    frames, states = len(log_probs), 2 * len(ids) + 1
    labels = np.full(states, blank)
    labels[1::2] = ids
    # from one token to the next, skipping the blank, unless they are equal
    skips = np.zeros(states, dtype=bool)
    skips[3::2] = ids[1:] != ids[:-1]
    stretch = max(int(math.sqrt(8 * frames)), 1)

    def forward(scores, first, last, steps=None):
        for t in range(first, last):
            ways = np.full((3, states), -np.inf)
            ways[0] = scores
            ways[1, 1:] = scores[:-1]
            ways[2, 2:] = np.where(skips[2:], scores[:-2], -np.inf)
            best = ways.argmax(axis=0)
            if steps is not None:
                steps[t - first] = best
            scores = np.take_along_axis(ways, best[None], 0)[0] + log_probs[t, labels]
        return scores

    start = np.full(states, -np.inf)
    start[:2] = log_probs[0, labels[:2]]
    kept = {1: start}
    for first in range(1, frames, stretch):
        last = min(first + stretch, frames)
        kept[last] = forward(kept[first], first, last)
    end = kept[frames]
    state = states - 1 if end[-1] >= end[-2] else states - 2
    path = np.empty(frames, dtype=np.int64)
    path[-1] = labels[state]
    for first in sorted((f for f in kept if f < frames), reverse=True):
        last = min(first + stretch, frames)
        steps = np.empty((last - first, states), dtype=np.uint8)
        forward(kept[first], first, last, steps)
        for t in range(last - 1, first - 1, -1):
            path[t] = labels[state]
            state -= int(steps[t - first, state])
    path[0] = labels[state]
    return path.tolist(), log_probs[np.arange(frames), path].tolist()


def path_spans(path: Sequence[int], blank: int = 0) -> List[Span]:
    """Return the runs of a CTC path that are not blank, in order.

    >>> path_spans([0, 5, 5, 0, 5])
    [Span(token=5, first=1, end=3), Span(token=5, first=4, end=5)]
    """
    spans, first = [], 0
    for frame in range(1, len(path) + 1):
        if frame == len(path) or path[frame] != path[first]:
            if path[first] != blank:
                spans.append(Span(path[first], first, frame))
            first = frame
    return spans


def timed_tokens(
    spans: Sequence[Span],
    scores: Sequence[float],
    boundaries: np.ndarray,
    names: Sequence[str],
) -> List[Timed]:
    """Return the spans with their times.

    Args:
        spans: from :func:`path_spans`.
        scores: (T,) log probability of each frame's label.
        boundaries: (T + 1,) seconds at which the frames begin and end.
        names: token names by id.
    """
    return [
        Timed(
            names[span.token],
            float(boundaries[span.first]),
            float(boundaries[span.end]),
            math.exp(sum(scores[span.first : span.end]) / (span.end - span.first)),
        )
        for span in spans
    ]


def words_of_tokens(
    tokens: Sequence[str], to_text: Callable[[Sequence[str]], str]
) -> Tuple[List[str], List[Optional[int]]]:
    """Return the words of the tokens, and the word of each token.

    It works with any tokenizer: a token belongs to the last word of the text after
    adding the token. A token that adds no character (a space) belongs to no word.

    Args:
        tokens: tokens of one utterance.
        to_text: the tokenizer's function from tokens to text.

    Returns:
        Words; and (len(tokens),) indices of words, None for spaces.
    """
    words = to_text(list(tokens)).split()
    owners, found = _owners(tokens, to_text, len(words), True)
    if found != words:  # a token's text depends on more than the token before it
        owners, _ = _owners(tokens, to_text, len(words), False)
    return words, owners


def _owners(tokens, to_text, most: int, forget: bool):
    """Return the word of each token, and the words.

    Args:
        tokens: tokens of one utterance.
        to_text: from tokens to text.
        most: number of words.
        forget: leave out earlier tokens whose text does not depend on the last one:
            the time is then proportional to the number of tokens, not to its square.
    """
    owners: List[Optional[int]] = []
    done: List[str] = []  # words before those of the tokens from ``first`` on
    head = ""  # the beginning of the next one
    words: List[str] = []
    first = letters = 0
    for count, token in enumerate(tokens, 1):
        before, words = words, to_text(list(tokens[first:count])).split()
        now = sum(map(len, words))
        grown = now > letters and words
        owners.append(min(len(done) + len(words), most) - 1 if grown else None)
        letters = now
        own = to_text([token]).split() if forget and grown else []
        new = len(words) > len(before)
        if len(own) == 1 and words[-1] == ("" if new else before[-1]) + own[0]:
            done += words[:-1]
            if head and len(words) > 1:
                done[1 - len(words)] = head + words[0]
                head = ""
            if not new:
                head += before[-1]
            words, first, letters = own, count - 1, len(own[0])
    return owners, done + [head + word for word in words[:1]] + words[1:]


def timed_words(
    words: Sequence[str], owners: Sequence[Optional[int]], tokens: Sequence[Timed]
) -> List[Timed]:
    """Return the words with the times of their tokens.

    Args:
        words: in order.
        owners: for each token the index of its word, non-decreasing, or None.
        tokens: as long as ``owners``.

    Returns:
        One per word. A word without a token has no duration and score 0, at the end of
        the previous word.
    """
    parts: List[List[Timed]] = [[] for _ in words]
    for owner, token in zip(owners, tokens):
        if owner is not None:
            parts[owner].append(token)
    result: List[Timed] = []
    for word, own in zip(words, parts):
        if own:
            score = sum(t.score for t in own) / len(own)
            result.append(Timed(word, own[0].start, own[-1].end, score))
        else:
            here = result[-1].end if result else 0.0
            result.append(Timed(word, here, here, 0.0))
    return result


def spread_words(words: Sequence[str], start: float, end: float) -> List[Timed]:
    """Return words without known times, spread over [start, end] by their letters."""
    letters = np.cumsum([0] + [len(word) for word in words])
    edges = start + (end - start) * letters / max(letters[-1], 1)
    return [
        Timed(word, float(a), float(b), 0.0)
        for word, a, b in zip(words, edges, edges[1:])
    ]


def shifted(items: Sequence[Timed], seconds: float) -> List[Timed]:
    """Return tokens or words, shifted in time."""
    return [i._replace(start=i.start + seconds, end=i.end + seconds) for i in items]
