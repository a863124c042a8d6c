"""Scoring: answers worked out by hand, a slow edit distance, RESULTS.md."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_adastride.bin import score as command
from espnet_adastride.corpora.librispeech import find_librispeech
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation import scoring
from espnet_adastride.evaluation.scoring import (
    Counts,
    align,
    characters,
    format_alignment,
    format_results,
    percent,
    score,
    total,
    utterance_errors,
    words,
    write_results,
)


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def edit_distance(ref, hyp):
    """Fewest substitutions, deletions and insertions, one cell after another."""
    table = [[0] * (len(hyp) + 1) for _ in range(len(ref) + 1)]
    for i in range(len(ref) + 1):
        for j in range(len(hyp) + 1):
            if i == 0 or j == 0:
                table[i][j] = i + j
                continue
            substitution = table[i - 1][j - 1] + (ref[i - 1] != hyp[j - 1])
            deletion = table[i - 1][j] + 1
            insertion = table[i][j - 1] + 1
            table[i][j] = min(substitution, deletion, insertion)
    return table[-1][-1]


SENTENCE = st.lists(
    st.sampled_from(["A", "B", "AB", "É", "字", "e\u0301", "*"]), max_size=9
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=5))
def test_errors_are_those_of_a_slow_edit_distance(pairs):
    ref = {str(i): " ".join(r) for i, (r, _) in enumerate(pairs)}
    hyp = {str(i): " ".join(h) for i, (_, h) in enumerate(pairs)}
    for tokenize in (words, characters):
        alignments = align(ref, hyp, tokenize)
        assert [a.id for a in alignments] == list(ref)
        for a in alignments:
            r, h = tokenize(ref[a.id]), tokenize(hyp[a.id])
            c = a.counts
            assert c.errors == edit_distance(r, h)
            assert c.words == len(r)
            assert c.correct + c.substitutions + c.insertions == len(h)
            assert c.sentence_errors == (r != h)
            # the alignment holds every token, in order, and the marks are true
            assert [x for x, _, _ in a.pairs if x] == r
            assert [y for _, y, _ in a.pairs if y] == h
            for x, y, mark in a.pairs:
                truth = "I" if not x else "D" if not y else "" if x == y else "S"
                assert mark == truth
        assert total(alignments).errors == sum(a.counts.errors for a in alignments)


def test_columns_by_hand():
    ref = {"u1": "A B C D", "u2": "E F", "u3": "G", "u4": ""}
    hyp = {"u1": "A X C", "u2": "E F", "u3": "", "u4": "H I"}
    counts = [a.counts for a in align(ref, hyp, words)]
    assert counts[0] == Counts(1, 2, 1, 1, 0, 1)
    assert counts[1] == Counts(1, 2, 0, 0, 0, 0)
    assert counts[2] == Counts(1, 0, 0, 1, 0, 1)  # empty hypothesis: all deleted
    assert counts[3] == Counts(1, 0, 0, 0, 2, 1)  # empty reference: all inserted
    # 7 words: 4 correct, 1 substituted, 2 deleted, 2 inserted, 5 errors; 3 of 4 wrong
    together = sum(counts, Counts())
    assert together.columns() == "4 7 57.1 14.3 28.6 28.6 71.4 75.0".split()
    assert together.error_rate == pytest.approx(500 / 7)


def test_characters_count_the_space_between_words_and_no_other():
    assert characters(" AB  C\u00a0D ") == [*"AB", "<space>", "C", "<space>", "D"]
    # "AB CD" against "ABCD": one of five characters, the space, is missing
    (a,) = align({"u": "AB CD"}, {"u": "ABCD"}, characters)
    assert a.counts == Counts(1, 4, 0, 1, 0, 1)
    # "A B" against "AB B": one inserted
    (a,) = align({"u": "A B"}, {"u": "AB B"}, characters)
    assert a.counts == Counts(1, 3, 0, 0, 1, 1)


def test_nothing_to_divide_by():
    assert percent(0, 0) == 0.0 and percent(1, 0) == float("inf")
    assert align({}, {}, words) == []
    assert Counts().columns() == ["0", "0"] + ["0.0"] * 6
    silent = total(align({"u": "", "v": ""}, {"u": "", "v": ""}, words))
    assert silent.columns() == ["2", "0"] + ["0.0"] * 6
    noisy = total(align({"u": ""}, {"u": "A"}, words))
    assert noisy.columns() == "1 0 0.0 0.0 0.0 inf inf 100.0".split()


def test_upper_and_lower_case_differ():
    assert total(align({"u": "Ab É"}, {"u": "AB é"}, words)).substitutions == 2


def test_alignment_is_shown_in_columns():
    (a,) = align({"u": "THE CAT SAT HERE"}, {"u": "THE CART SAT"}, words)
    assert format_alignment(a, "s-u") == (
        "id: (s-u)\n"
        "Scores: (#C #S #D #I) 2 1 1 0\n"
        "REF:  THE CAT  SAT HERE\n"
        "HYP:  THE CART SAT ****\n"
        "Eval:     S        D\n"
    )
    # a wide letter takes two columns, a combining mark none
    (a,) = align({"u": "字 e\u0301 B"}, {"u": "XYZ e\u0301 C B"}, words)
    assert format_alignment(a) == (
        "id: (u)\n"
        "Scores: (#C #S #D #I) 2 1 0 1\n"
        "REF:  字  e\u0301 * B\n"
        "HYP:  XYZ e\u0301 C B\n"
        "Eval: S     I\n"
    )


@pytest.fixture
def dirs(tmp_path):
    """References with speakers, hypotheses (one of them empty)."""
    ref = write(
        tmp_path / "dump" / "text", ["s1-a THE CAT SAT", "s1-b A DOG", "s2-c HI"]
    )
    write(tmp_path / "dump" / "utt2spk", ["s1-a s1", "s1-b s1", "s2-c s2"])
    hyp = write(tmp_path / "hyp", ["s2-c", "s1-a THE CAT SAT", "s1-b A DOG NOW"])
    return ref, hyp, tmp_path / "exp" / "asr_x" / "decode" / "set"


def run(ref, hyp, output, *options):
    command.main(["--ref", ref, "--hyp", hyp, "--output", str(output), *options])


def test_result_files(dirs, capsys):
    ref, hyp, out = dirs
    run(ref, hyp, out)
    text = (out / "score_wer" / "result.txt").read_text()
    # the line ESPnet's show_asr_result.sh greps for, once, with its eight columns
    (line,) = [line for line in text.splitlines() if "Avg" in line]
    row = line.replace("|", " ").split()
    assert row == "Sum/Avg 3 6 83.3 0.0 16.7 16.7 33.3 66.7".split()
    rows = [re.sub(r"[|\s]+", " ", line).split() for line in text.splitlines()]
    assert "s1 2 5 100.0 0.0 0.0 20.0 20.0 50.0".split() in rows
    assert "s2 1 1 0.0 0.0 100.0 0.0 100.0 100.0".split() in rows
    assert (
        "id: (s2-s2-c)\nScores: (#C #S #D #I) 0 0 1 0\nREF:  HI\nHYP:  **\nEval: D\n"
    ) in text
    # trn files as ESPnet hands them to sclite, in the references' order
    assert (out / "score_wer" / "ref.trn").read_text() == (
        "THE CAT SAT\t(s1-s1-a)\nA DOG\t(s1-s1-b)\nHI\t(s2-s2-c)\n"
    )
    assert (out / "score_wer" / "hyp.trn").read_text() == (
        "THE CAT SAT\t(s1-s1-a)\nA DOG NOW\t(s1-s1-b)\n\t(s2-s2-c)\n"
    )
    assert (out / "score_cer" / "ref.trn").read_text().splitlines()[1] == (
        "A <space> D O G\t(s1-s1-b)"
    )
    assert not (out / "score_ter").exists()
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["WER"] + row[1:] in printed
    # 18 characters: HI deleted, "<space> N O W" inserted
    assert "CER 3 18 88.9 0.0 11.1 22.2 33.3 66.7".split() in printed


def test_tokens_of_a_bpe_model(dirs, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = write(tmp_path / "corpus", ["THE CAT SAT ON A DOG HI THERE"] * 20)
    model = str(tmp_path / "bpe")
    sentencepiece.SentencePieceTrainer.train(
        input=corpus, model_prefix=model, vocab_size=18, minloglevel=2
    )
    ref, hyp, out = dirs
    run(ref, hyp, out, "--token_type", "bpe", "--bpemodel", f"{model}.model")
    encode = sentencepiece.SentencePieceProcessor(model_file=f"{model}.model").encode
    n, said = len(encode("HI")), len(encode("A DOG NOW")) - len(encode("A DOG"))
    all_tokens = sum(len(encode(t)) for t in ("THE CAT SAT", "A DOG", "HI"))
    counts = score(ref, hyp, out, "bpe", f"{model}.model")[0]["ter"]
    assert (counts.words, counts.deletions) == (all_tokens, n)
    assert counts.insertions - counts.deletions == said - n
    trn = (out / "score_ter" / "ref.trn").read_text().splitlines()[2]
    assert trn == " ".join(encode("HI", out_type=str)) + "\t(s2-s2-c)"
    # scored again with words: the stale TER must not reach RESULTS.md
    run(ref, hyp, out)
    assert not (out / "score_ter").exists()


def test_missing_extra_and_duplicate_hypotheses_are_refused_by_name(
    dirs, tmp_path, capsys
):
    ref, _, out = dirs
    some = ["s1-a THE CAT SAT", "s2-c HI"]
    for lines, pattern in (
        (some, "/hyp: 1 of 3 references have no hypothesis: s1-b; .*--missing empty"),
        (some + ["s1-b A", "s3-x B"], "1 of 4 hypotheses have no reference: s3-x"),
        (some + ["s1-b A", "s1-a B"], ":4: the id s1-a occurs twice"),
        (some + [" s1-b A"], ":3: the line begins with white space"),
        ([], "3 of 3 references have no hypothesis: s1-a, s1-b, s2-c"),
    ):
        hyp = write(tmp_path / "hyp", lines)
        with pytest.raises(SystemExit, match=pattern) as stop:
            run(ref, hyp, out)
        assert "\n" not in str(stop.value) and not out.exists()
    # an extra hypothesis stays refused when missing ones are allowed
    hyp = write(tmp_path / "hyp", some + ["s3-x B"])
    with pytest.raises(SystemExit, match="s3-x"):
        run(ref, hyp, out, "--missing", "empty")

    hyp = write(tmp_path / "hyp", some)
    capsys.readouterr()
    run(ref, hyp, out, "--missing", "empty")
    said = "1 references had no hypothesis and count as empty: s1-b"
    assert said in capsys.readouterr().out
    text = (out / "score_wer" / "result.txt").read_text()
    assert said in text
    (line,) = [line for line in text.splitlines() if "Avg" in line]
    row = line.replace("|", " ").split()[1:]
    assert row == "3 6 66.7 0.0 33.3 0.0 33.3 33.3".split()


def test_bad_input_is_one_clear_line(dirs, tmp_path):
    ref, hyp, out = dirs
    empty = write(tmp_path / "empty", [])
    text = write(tmp_path / "text", ["no model"])
    for options, pattern in (
        (["--ref", ref], "give --hyp, --output"),
        (["--ref", ref, "--results", "x"], "--results cannot be combined"),
        (["--results", str(tmp_path / "none")], "no such folder"),
        (["--results", str(tmp_path)], "no score_wer/result.txt below it"),
        (["--ref", "none", "--hyp", hyp, "--output", "o"], "none: no such file"),
        (["--ref", ref, "--hyp", "none", "--output", "o"], "none: no such file"),
        (["--ref", empty, "--hyp", hyp, "--output", "o"], "empty: the file is empty"),
    ):
        with pytest.raises(SystemExit, match=pattern) as stop:
            command.main(options)
        assert "\n" not in str(stop.value)
    for model, pattern in (
        ([], "needs --bpemodel"),
        (["--bpemodel", "none.model"], "none.model: no such file"),
        (["--bpemodel", text], "text: not a SentencePiece model"),
    ):
        with pytest.raises(SystemExit, match=pattern) as stop:
            run(ref, hyp, out, "--token_type", "bpe", *model)
        assert "\n" not in str(stop.value)
    write(Path(ref).parent / "utt2spk", ["s1-a s1", "s1-b s1"])
    with pytest.raises(SystemExit, match="utt2spk has no speaker for s2-c"):
        run(ref, hyp, out)
    assert not (out / "score_wer" / "result.txt").exists()


def test_results_of_an_experiment(dirs, capsys):
    ref, hyp, out = dirs
    exp = out.parents[1]
    write(exp / "config.yaml", ["encoder: conformer"])
    run(ref, hyp, out)
    # ESPnet puts the sets used for tuning one folder deeper
    run(ref, ref, out.parent / "org" / "dev")
    capsys.readouterr()
    command.main(["--results", str(exp)])
    text = (exp / "RESULTS.md").read_text()
    first, _, shown = text.partition("\n")
    assert first.startswith("<!-- ") and capsys.readouterr().out == shown
    assert text[text.index("## asr_x") :] == (
        "## asr_x\n### WER\n\n"
        "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n"
        "|---|---|---|---|---|---|---|---|---|\n"
        "|decode/org/dev|3|6|100.0|0.0|0.0|0.0|0.0|0.0|\n"
        "|decode/set|3|6|83.3|0.0|16.7|16.7|33.3|66.7|\n\n"
        "### CER\n\n"
        "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n"
        "|---|---|---|---|---|---|---|---|---|\n"
        "|decode/org/dev|3|18|100.0|0.0|0.0|0.0|0.0|0.0|\n"
        "|decode/set|3|18|88.9|0.0|11.1|22.2|33.3|66.7|\n"
    )
    for line in ("date", "python version", "espnet version", "pytorch version"):
        assert f"\n- {line}: `" in text
    assert "\n- Git hash: `" in text
    # again: the same tables, not twice
    assert write_results(exp).count("## asr_x") == 1
    # from the folder above, and without config.yaml, the heading is the same
    (exp / "config.yaml").unlink()
    assert "|decode/set|3|6|" in write_results(exp.parent)
    assert "\n## asr_x\n" in (exp.parent / "RESULTS.md").read_text()


def test_results_refuses_what_is_not_whole_or_not_its_own(dirs):
    ref, hyp, out = dirs
    exp = out.parents[1]
    run(ref, hyp, out)
    write(exp / "RESULTS.md", ["# my own words"])
    with pytest.raises(SystemExit, match="not written by this command"):
        command.main(["--results", str(exp)])
    assert (exp / "RESULTS.md").read_text() == "# my own words\n"
    (out / "score_cer" / "result.txt").write_text("half a fi")
    with pytest.raises(SystemExit, match="score_cer/result.txt: no Sum/Avg line"):
        command.main(["--results", str(exp)])


def test_results_reads_the_table_of_sclite(tmp_path):
    path = tmp_path / "asr_y" / "decode" / "test_clean" / "score_wer" / "result.txt"
    write(
        path,
        [
            "| SPKR   | # Snt  # Wrd | Corr    Sub    Del    Ins    Err  S.Err |",
            "|=================================================================|",
            "| Sum/Avg| 2620   52576 | 94.4    5.1    0.4    0.8    6.3   56.1 |",
            "|  Mean  | 30.1   604.3 | 94.4    5.1    0.4    0.8    6.3   56.1 |",
        ],
    )
    found = scoring.find_results(tmp_path / "asr_y")
    row = "|decode/test_clean|2620|52576|94.4|5.1|0.4|0.8|6.3|56.1|\n"
    assert row in format_results(found)


def test_an_interrupted_score_leaves_no_old_result(dirs, monkeypatch):
    ref, hyp, out = dirs
    run(ref, hyp, out)

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "format_summary", die)
    with pytest.raises(SystemExit, match="130"):
        run(ref, hyp, out)
    assert not list(out.rglob("result.txt")) and not list(out.rglob("*.tmp"))


def test_wrong_words_for_options_are_refused(dirs):
    ref, hyp, out = dirs
    with pytest.raises(UserError, match="choose bpe, char or word"):
        score(ref, hyp, out, token_type="phn")
    with pytest.raises(UserError, match="choose refuse or empty"):
        score(ref, hyp, out, missing="skip")


@pytest.mark.skipif(not os.environ.get("LIBRISPEECH"), reason="LIBRISPEECH is not set")
def test_real_references_give_the_published_counts(tmp_path):
    root, parts = find_librispeech(os.environ["LIBRISPEECH"])
    if "test-clean" not in parts:
        pytest.skip(f"no test-clean in {root}")
    lines = []
    for path in (root / "test-clean").glob("*/*/*.trans.txt"):
        lines += path.read_text().splitlines()
    ref = write(tmp_path / "text", lines)
    counts, _ = score(ref, ref, tmp_path / "out")
    zeros = ["100.0", "0.0", "0.0", "0.0", "0.0", "0.0"]
    # as in the RESULTS of ESPnet's librispeech_100
    assert counts["wer"].columns() == ["2620", "52576"] + zeros
    assert counts["cer"].columns() == ["2620", "281530"] + zeros


def test_errors_of_utterances():
    ref = {"a": "ONE TWO THREE", "b": "FOUR", "c": "FIVE"}
    hyp = {"a": "ONE THREE THREE FOUR", "b": "FOUR", "c": ""}
    errors, tokens = utterance_errors(ref, hyp, words)
    assert errors.tolist() == [2, 0, 1] and tokens.tolist() == [3, 1, 1]
    errors, tokens = utterance_errors(ref, hyp, characters)
    assert errors[1:].tolist() == [0, 4] and tokens.tolist() == [13, 4, 4]
