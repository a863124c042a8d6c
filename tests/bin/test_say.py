"""A sentence of one's own: what is said, and which words a model has not met."""

import pytest
import soundfile

from espnet_adastride.bin import say
from espnet_adastride.errors import UserError


def test_words_as_transcripts_have_them():
    assert say.spoken_words("It\u2019s late, isn't it?") == [
        "IT'S",
        "LATE",
        "ISN'T",
        "IT",
    ]
    with pytest.raises(UserError, match="'7' cannot be synthesised"):
        say.spoken_words("platform 7")
    with pytest.raises(UserError, match="no word to synthesise"):
        say.spoken_words(" ... ")


def test_unknown_words_are_named(tmp_path, capsys):
    pytest.importorskip("espeakng_loader")
    (tmp_path / "text").write_text("u1 THE TRAIN IS LATE\nu2 THE DOCTOR\n")
    words = [
        "--output",
        str(tmp_path / "x.wav"),
        "--vocabulary",
        str(tmp_path / "text"),
    ]
    say.main(["the giraffe is late, giraffe", *words])
    said, told = capsys.readouterr().out.splitlines()
    assert said.endswith(": THE GIRAFFE IS LATE GIRAFFE")
    assert "not among the 5 training words" in told
    assert told.endswith("likely: GIRAFFE")
    assert soundfile.info(tmp_path / "x.wav").duration > 1
    say.main(["the doctor is late", *words])
    assert "all words are among the 5 training words" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="^error: --output"):
        say.main(["late", "--output", str(tmp_path / "x.text")])
