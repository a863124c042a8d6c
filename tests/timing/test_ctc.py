"""CTC's frames to tokens and words in seconds: known answers, and a slow reference."""

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("torchaudio")

from espnet_adastride.errors import AlignmentError  # noqa: E402
from espnet_adastride.timing import ctc  # noqa: E402
from espnet_adastride.timing.ctc import (  # noqa: E402
    Span,
    Timed,
    force_align,
    needed_frames,
    path_spans,
    shifted,
    spread_words,
    timed_tokens,
    timed_words,
    words_of_tokens,
)


def collapse(path):
    merged = [t for i, t in enumerate(path) if i == 0 or t != path[i - 1]]
    return [t for t in merged if t != 0]


@pytest.mark.parametrize("ids", [[1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 1]])
def test_the_path_is_the_best_of_all_paths(ids):
    log_probs = torch.randn(5, 3).log_softmax(dim=1)
    path, scores = force_align(log_probs, ids)
    assert collapse(path) == ids
    total = max(
        sum(log_probs[t, k].item() for t, k in enumerate(other))
        for other in itertools.product(range(3), repeat=5)
        if collapse(other) == ids
    )
    assert sum(scores) == pytest.approx(total, abs=1e-5)
    assert scores == pytest.approx([log_probs[t, k].item() for t, k in enumerate(path)])


def test_a_clear_path_is_found():
    path = [0, 2, 2, 0, 2, 1, 0]
    log_probs = torch.full((7, 3), -20.0)
    log_probs[range(7), path] = 0.0
    assert force_align(log_probs, [2, 2, 1])[0] == path
    # another id for the blank
    swapped = log_probs[:, [1, 2, 0]]
    expected = [{0: 2, 1: 0, 2: 1}[k] for k in path]
    assert force_align(swapped, [1, 1, 0], blank=2)[0] == expected


def test_nothing_said_is_blanks_and_no_chance_is_no_error():
    log_probs = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]])
    assert force_align(log_probs, []) == ([0, 0], [-1.0, -3.0])
    assert force_align(torch.full((2, 2), -torch.inf), [1])[0] in (
        [0, 1],
        [1, 0],
        [1, 1],
    )


def test_too_few_frames_and_wrong_ids_are_refused():
    log_probs = torch.zeros(4, 3)
    assert needed_frames([1, 1, 1]) == 5 and needed_frames([]) == 0
    with pytest.raises(
        AlignmentError, match="4 frames are too few for 3 tokens.* 5.* --stride"
    ):
        force_align(log_probs, [1, 1, 1])
    for wrong in (0, 3, -1):
        with pytest.raises(ValueError, match="cannot be aligned"):
            force_align(log_probs, [1, wrong])


def test_spans():
    assert path_spans([]) == [] == path_spans([0, 0])
    assert path_spans([7]) == [Span(7, 0, 1)]
    assert path_spans([5, 5, 3, 0, 0, 3, 3]) == [
        Span(5, 0, 2), Span(3, 2, 3), Span(3, 5, 7),
    ]  # fmt: skip


def test_times_are_those_of_the_frames_and_not_their_numbers():
    boundaries = np.array([0.0, 0.5, 0.6, 0.7, 2.0])
    tokens = timed_tokens(
        path_spans([0, 1, 1, 2]), np.log([1, 0.5, 0.5, 0.25]), boundaries, "_AB"
    )
    assert [(t.text, t.start, t.end) for t in tokens] == [
        ("A", 0.5, 0.7), ("B", 0.7, 2.0),
    ]  # fmt: skip
    assert [t.score for t in tokens] == pytest.approx([0.5, 0.25])


def pieces_to_text(tokens):
    return "".join(tokens).replace("▁", " ").strip()


@pytest.mark.parametrize(
    "tokens, to_text, words, owners",
    [
        (["▁THE", "▁CA", "T", "S"], pieces_to_text, ["THE", "CATS"], [0, 1, 1, 1]),
        (["▁", "A", "▁", "B"], pieces_to_text, ["A", "B"], [None, 0, None, 1]),
        (list("A BC"), "".join, ["A", "BC"], [0, None, 1, 1]),
        (list("  A "), "".join, ["A"], [None, None, 0, None]),
        (["SO", "IT"], " ".join, ["SO", "IT"], [0, 1]),
        (["▁A▁B", "C"], pieces_to_text, ["A", "BC"], [1, 1]),
        ([], "".join, [], []),
    ],
)
def test_words_of_any_tokenizer(tokens, to_text, words, owners):
    assert words_of_tokens(tokens, to_text) == (words, owners)


def _plain(tokens):
    return "".join(tokens).replace("▁", " ")


def _bytes(tokens):
    return b"".join(tokens).decode("utf-8", "replace")


@pytest.mark.parametrize(
    "to_text, vocabulary",
    [
        (_plain, ["▁", "a", "b"]),
        (_plain, ["▁", "▁ab", "c", "d▁e", "▁x▁y"]),
        (_plain, list("日本語")),
        (_bytes, [b" a", b"b", b" ", *(bytes([x]) for x in "語".encode())]),
        (lambda tokens: f"{_plain(tokens).capitalize()}.", ["▁A", "b", "▁c"]),
    ],
)
def test_words_are_those_of_the_text_so_far(to_text, vocabulary):
    random = np.random.default_rng(0)
    for count in [0, 1, 2, 3] + 40 * [12]:
        tokens = [vocabulary[n] for n in random.integers(len(vocabulary), size=count)]
        words = to_text(tokens).split()
        expected, letters = [], 0
        for last in range(1, count + 1):
            so_far = to_text(tokens[:last]).split()
            now = sum(map(len, so_far))
            grown = now > letters and so_far
            expected.append(min(len(so_far), len(words)) - 1 if grown else None)
            letters = now
        assert words_of_tokens(tokens, to_text) == (words, expected)


@pytest.mark.parametrize("vocabulary", ["▁ab", "日本語"])
def test_an_hour_of_tokens_takes_no_hour(vocabulary):
    tokens = list(np.random.default_rng(0).choice(list(vocabulary), 2000))
    seen = []

    def to_text(some):
        seen.append(len(some))
        return _plain(some)

    words_of_tokens(tokens, to_text)
    assert sum(seen) < 10 * len(tokens)


def test_words_last_from_their_first_token_to_their_last():
    tokens = [
        Timed("A", 1.0, 1.5, 0.5), Timed(" ", 1.5, 2.0, 1.0),
        Timed("B", 3.0, 3.1, 0.2), Timed("C", 4.0, 4.5, 0.4),
    ]  # fmt: skip
    words = timed_words(["A", "?", "BC"], [0, None, 2, 2], tokens)
    assert words[0] == Timed("A", 1.0, 1.5, 0.5)
    assert words[1] == Timed("?", 1.5, 1.5, 0.0)  # no token of its own
    assert words[2][:3] == ("BC", 3.0, 4.5) and words[2].score == pytest.approx(0.3)
    later = shifted(words, 10)
    assert later[2].start == 13.0 and later[2].end == 14.5


def test_spread_by_letters():
    assert [w[:3] for w in spread_words(["AB", "C", "D"], 1.0, 3.0)] == [
        ("AB", 1.0, 2.0), ("C", 2.0, 2.5), ("D", 2.5, 3.0),
    ]  # fmt: skip
    assert spread_words([], 0.0, 1.0) == []


@pytest.mark.parametrize("seed", range(8))
def test_alignment_in_little_memory_is_the_same(seed, monkeypatch):
    random = np.random.default_rng(seed)
    frames, vocabulary = int(random.integers(1, 60)), 5
    scores = torch.from_numpy(random.standard_normal((frames, vocabulary)) * 2)
    log_probs = scores.float().log_softmax(1)
    ids, most = [], int(random.integers(0, frames))
    while len(ids) < most:
        ids.append(int(random.integers(1, vocabulary)))
        if ctc.needed_frames(ids) > frames:
            ids.pop()
            break
    ids = ids or [1]
    path, values = ctc.force_align(log_probs, ids)
    monkeypatch.setattr(ctc, "MOST_CELLS", 0)
    mine, own = ctc.force_align(log_probs, ids)
    assert mine == path
    np.testing.assert_allclose(own, values, rtol=1e-5)
    assert [span.token for span in ctc.path_spans(mine)] == ids


def test_a_long_alignment_finds_what_was_planted(monkeypatch):
    """20,000 frames and 3,001 states, where tokens are where they were put."""
    monkeypatch.setattr(ctc, "MOST_CELLS", 0)
    random = np.random.default_rng(0)
    ids = random.integers(1, 9, 1500).tolist()
    places = np.sort(random.choice(np.arange(0, 20000, 2), 1500, replace=False))
    log_probs = torch.full((20000, 9), -8.0)
    log_probs[:, 0] = -0.01
    log_probs[places, 0] = -8.0
    log_probs[places, ids] = -0.01
    path, _ = ctc.force_align(log_probs, ids)
    assert [s.first for s in ctc.path_spans(path)] == places.tolist()
