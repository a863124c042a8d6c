"""Token lists in ESPnet's format: <blank>, <unk>, the tokens, <sos/eos> (stage 5)."""

import io
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Sequence

from espnet_adastride.corpora import kaldi
from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.errors import ModelError, UserError, no_such
from espnet_adastride.files import PathLike, fresh_dir, replace_dir, write_text


def read_sentences(
    texts: Iterable[PathLike], clean: Callable[[str], str] = str
) -> List[str]:
    """Return the cleaned sentences of ``text`` files, without empty ones."""
    lines = (clean(s) for path in texts for s in read_table(path).values())
    sentences = [s for s in lines if s]
    if not sentences:
        raise UserError(f"no text in {', '.join(map(str, texts))}")
    return sentences


def read_symbols(path: str) -> List[str]:
    """Return the non-linguistic symbols in a file, one a line; none of ``none``."""
    lines = [] if path in ("", "none") else kaldi.read_lines(path)
    return [line.rstrip() for line in lines if line.strip()]


def char_tokens(sentences: Iterable[str], symbols: Sequence[str] = ()) -> List[str]:
    """Return the characters, the most frequent first; a space is ``<space>``.

    Symbols are tokens of their own, the longest first, as ESPnet's tokenizer has it.
    """
    longest = sorted(symbols, key=len, reverse=True)
    token = re.compile("|".join([*map(re.escape, longest), "."]), re.DOTALL)
    counts: Counter = Counter()
    for sentence in sentences:
        counts.update("<space>" if c == " " else c for c in token.findall(sentence))
    return [token for token, _ in counts.most_common()]


def train_bpe(
    sentences: List[str],
    folder: Path,
    size: int,
    mode: str,
    coverage: float,
    symbols: str = "",
) -> List[str]:
    """Train a SentencePiece model ``folder/bpe.model`` and return its pieces.

    Args:
        size: Number of pieces, <unk>, <s> and </s> included (``--nbpe``).
        mode: ``unigram`` or ``bpe``.
        coverage: Share of the characters that the pieces must cover.
        symbols: User-defined symbols, separated by commas.
    """
    import sentencepiece

    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=writer,
            vocab_size=size,
            model_type=mode,
            character_coverage=coverage,
            input_sentence_size=100000000,
            user_defined_symbols=symbols,
            minloglevel=2,
        )
    except Exception as error:
        raise UserError(
            f"--nbpe {size} --bpemode {mode} is not possible for these "
            f"{len(sentences)} sentences: {in_our_words(str(error))}"
        ) from None
    (folder / "bpe.model").write_bytes(writer.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue())
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    scores = [model.get_score(i) for i in range(model.get_piece_size())]
    lines = [f"{p}\t{s:g}\n" for p, s in zip(pieces, scores)]
    write_text(folder / "bpe.vocab", "".join(lines))
    return pieces[3:]


def load_pieces(bpemodel: PathLike):
    """Return the SentencePieceProcessor of a model.

    Raises:
        UserError: No such file, or not a SentencePiece model.
    """
    import sentencepiece

    if not Path(bpemodel).is_file():
        raise UserError(no_such(bpemodel, "give the bpe.model of training"))
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(bpemodel))
    except (RuntimeError, OSError) as e:
        reason = str(e).splitlines()[0]
        raise UserError(f"{bpemodel}: not a SentencePiece model ({reason})") from None


def check_pieces(bpemodel: PathLike, token_list: Sequence[str]) -> None:
    """Check that the tokens of a trained model are pieces of its SentencePiece model.

    Symbols such as ``<sos/eos>`` need not be, and the list may lack pieces.

    Raises:
        ModelError: The file was made again after the training, from other text.
        UserError: It cannot be read.
    """
    model = load_pieces(bpemodel)
    tokens = [t for t in token_list if not re.fullmatch("<.*>", t)]
    others = [t for t in tokens if model.piece_to_id(t) == model.unk_id()]
    if others:
        raise ModelError(
            f"{bpemodel} is not that of the training: {len(others)} of the model's "
            f"{len(tokens)} tokens are not in it, such as {' '.join(others[:3])}; put "
            "back the training's, or make it again from its text (stage 5)"
        )


#: messages of SentencePiece, and their meaning for this recipe's options
_SENTENCEPIECE = (
    (
        r"Vocabulary size too high .*<= (\d+)",
        r"too many pieces; give --nbpe \1 or less",
    ),
    (
        r"smaller than required_chars\. \d+ vs (\d+)",
        r"too few pieces for the characters of the text; give --nbpe \1 or more, or a "
        "smaller --bpe_char_cover",
    ),
    (r"character_coverage\(\) >=", "give a --bpe_char_cover from 0.98 to 1"),
    (r"vocab_size\(\)\) > \(0\)", "give a --nbpe above 0"),
    (r"(\S+) is already defined", r"--bpe_nlsyms has \1 twice; name it once"),
    (
        r"(\S+) must not be defined",
        r"--bpe_nlsyms: \1 is a built-in symbol; leave it out",
    ),
    (r"piece\(\)\.empty", "--bpe_nlsyms has an empty symbol; one comma between two"),
    (r"sentences_\.empty", "the text has no words"),
)
_OPTIONS = {
    "vocab_size": "--nbpe",
    "model_type": "--bpemode",
    "character_coverage": "--bpe_char_cover",
    "user_defined_symbols": "--bpe_nlsyms",
}


def in_our_words(message: str) -> str:
    """Return an error of SentencePiece's trainer with this recipe's option names."""
    for pattern, words in _SENTENCEPIECE:
        found = re.search(pattern, message)
        if found:
            return found.expand(words)
    # it prepends its source line and the C++ condition
    message = " ".join(message.split()).split("] ", 1)[-1].strip() or message.strip()
    for theirs, ours in _OPTIONS.items():
        message = re.sub(f"(--)?{theirs}", ours, message)
    return message or "SentencePiece gives no reason"


def make_token_list(
    texts: List[PathLike],
    output: PathLike,
    token_type: str,
    size: int = 0,
    mode: str = "unigram",
    coverage: float = 1.0,
    symbols: str = "",
    clean: Callable[[str], str] = str,
    nonlinguistic: Sequence[str] = (),
) -> str:
    """Write ``output/tokens.txt`` (and ``bpe.model`` for ``bpe``); return a summary."""
    sentences = read_sentences(texts, clean)
    temporary = fresh_dir(output)
    if token_type == "bpe":
        tokens = train_bpe(sentences, temporary, size, mode, coverage, symbols)
    elif token_type == "char":
        tokens = char_tokens(sentences, nonlinguistic)
    else:
        raise UserError(f"--token_type {token_type}: choose bpe or char")
    tokens = ["<blank>", "<unk>", *tokens, "<sos/eos>"]
    write_text(temporary / "tokens.txt", "".join(f"{t}\n" for t in tokens))
    replace_dir(temporary, output)
    return f"{os.path.join(output, 'tokens.txt')}: {len(tokens)} {token_type} tokens"


def unseen_characters(
    tokens: PathLike,
    text: PathLike,
    clean: Callable[[str], str] = str,
    nonlinguistic: Sequence[str] = (),
) -> str:
    """Return one line on the characters of ``text`` that no token covers, or ''.

    They become ``<unk>``: a model can neither learn nor output them.

    Args:
        tokens: ``tokens.txt``.
        text: Kaldi-style text file of a validation or test set.
        clean: Applied to its sentences first.
        nonlinguistic: Symbols that are tokens of their own.
    """
    words = Path(tokens).read_text(encoding="utf-8").splitlines()
    whole = {"<space>", *nonlinguistic}
    known = {" ", "<space>", *(w for w in words if w in nonlinguistic)}
    known |= set("".join(w for w in words[2:-1] if w not in whole))
    found: Dict[str, str] = {}
    sentences = read_table(text)
    count = 0
    for key, sentence in sentences.items():
        unseen = set(char_tokens([clean(sentence)], nonlinguistic)) - known
        # SentencePiece normalises compatible forms to one character
        unseen -= {c for c in unseen if set(unicodedata.normalize("NFKC", c)) <= known}
        count += bool(unseen)
        for character in sorted(unseen):
            found.setdefault(character, key)
    if not found:
        return ""
    some = ", ".join(f"{c!r} ({found[c]})" for c in sorted(found)[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return (
        f"warning: {text}: {count} of {len(sentences)} utterances have characters that "
        f"no token covers: {some}{more}; they become <unk>: fix the text, or add such "
        "text (--bpe_train_text)"
    )
