"""What a command imports before it knows what to do: its start-up, without a clock."""

import logging
import os
import pty
import subprocess
import sys

import pytest

from espnet_adastride import cli
from espnet_adastride.errors import UserError
from espnet_adastride.quiet import held_back

#: each takes from half a second to ten seconds to import
HEAVY = ("espnet2", "matplotlib", "onnxruntime", "scipy", "torch", "torchaudio")


def heavy_after(code):
    """Return which heavy packages a program has imported at its end."""
    code += f"\nimport sys\nprint('\\n', [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].strip()


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_help_imports_nothing_heavy(word):
    code = f"""
from espnet_adastride import cli
from espnet_adastride.errors import UserError
from espnet_adastride.quiet import held_back
try:
    cli.main([{word!r}, "--help"])
except SystemExit as end:
    assert not end.code, end.code
"""
    assert heavy_after(code) == "[]"


def test_the_package_and_the_list_of_commands_are_light():
    assert heavy_after("import espnet_adastride.cli") == "[]"


QUIET = """
import sys
from espnet_adastride.quiet import quiet_imports
try:
    with quiet_imports():
        print("what an import prints")
        if {fails}:
            raise ImportError("broken")
except ImportError as error:
    print("error:", error)
"""


def on_a_terminal(code):
    """Return what a program shows whose standard error is a terminal."""
    own, other = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=other, stderr=other
    ) as process:
        os.close(other)
        shown = b""
        while True:
            try:
                part = os.read(own, 4096)
            except OSError:  # the program has closed the terminal
                break
            if not part:
                break
            shown += part
        assert process.wait() == 0
    os.close(own)
    return shown.decode()


def test_loading_is_shown_on_a_terminal_and_erased():
    assert on_a_terminal(QUIET.format(fails=False)) == "loading ESPnet ...\r\x1b[K"
    lines = on_a_terminal(QUIET.format(fails=True)).split("\x1b[K")
    assert lines[0] == "loading ESPnet ...\r"
    assert lines[1].splitlines() == ["what an import prints", "error: broken"]


def test_a_mistake_shows_nothing_of_the_imports_and_log_handlers_still_work(capsys):
    with pytest.raises(UserError):
        with held_back():
            print("what an import prints")
            handler = logging.StreamHandler()  # some packages make one
            raise UserError("a mistake")
    handler.emit(logging.makeLogRecord({"msg": "later"}))
    assert capsys.readouterr() == ("", "later\n")


def test_loading_is_not_in_a_log():
    for fails, said in ((False, ""), (True, "what an import prints\n")):
        done = subprocess.run(
            [sys.executable, "-c", QUIET.format(fails=fails)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == said
