"""--cleaner: the tokens of stage 5 and the references of stage 13 are cleaned, too."""

import pytest

pytest.importorskip("espnet2")

from espnet_adastride.bin import make_token_list, score  # noqa: E402


def test_the_cleaner_of_the_training_makes_tokens_and_references(tmp_path):
    cleaner = ["--cleaner", "korean_cleaner"]  # needs no other package
    (tmp_path / "text").write_text("u1 b\n")
    (tmp_path / "hyp").write_text("u1 \ube44\n")  # the letter's name
    words = ["--text", tmp_path / "text", "--output", tmp_path / "char"]
    words += ["--token_type", "char", *cleaner]
    make_token_list.main([str(word) for word in words])
    tokens = (tmp_path / "char" / "tokens.txt").read_text().split()
    assert tokens[2:-1] == ["\ube44"]
    files = f"--ref {tmp_path}/text --hyp {tmp_path}/hyp --output {tmp_path}"
    words = files.split()
    score.main([str(word) for word in [*words, *cleaner]])
    result = (tmp_path / "score_wer" / "result.txt").read_text()
    assert "Scores: (#C #S #D #I) 1 0 0 0" in result
    with pytest.raises(SystemExit, match="error: --cleaner none_such: Not supported"):
        score.main([str(word) for word in [*words, "--cleaner", "none_such"]])
