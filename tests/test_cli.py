"""The one command: it lists, starts fast, and hands over to the commands of bin/."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_adastride import __version__, cli
from espnet_adastride.bin import score_times
from espnet_adastride.bin.parsers import from_caller
from espnet_adastride.errors import UserError, one_line_errors

ROOT = Path(__file__).resolve().parents[1]


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "espnet_adastride.cli", *words],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_list_has_every_command_and_needs_neither_torch_nor_espnet():
    code = (
        "import sys; from espnet_adastride import cli; cli.main([]);"
        "print([m for m in ('torch', 'numpy', 'espnet2', 'yaml') if m in sys.modules])"
    )
    lines = subprocess.check_output([sys.executable, "-c", code], text=True)
    *listed, loaded = lines.splitlines()
    assert loaded == "[]"
    found = [line.split()[0] for line in listed if line.startswith("  ")]
    assert found == list(cli.COMMANDS)
    assert run("--help").stdout.splitlines() == listed


def test_commands_are_modules_with_a_parser_and_a_main():
    assert len(set(cli.COMMANDS.values())) == len(cli.COMMANDS)
    for module in cli.COMMANDS.values():
        assert importlib.util.find_spec(f"espnet_adastride.bin.{module}"), module


def test_version_and_unknown_words(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"adastride {__version__}\n"
    with pytest.raises(SystemExit, match="unknown command 'reprot' .did you mean 'rep"):
        cli.main(["reprot"])
    with pytest.raises(SystemExit, match="unknown shell 'fish'"):
        cli.main(["--completion", "fish"])


def test_a_command_gets_its_options_and_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["adastride"])
    with pytest.raises(SystemExit) as error:
        cli.main(["score", "--hypp", "x"])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: adastride score ")
    assert "unknown option --hypp: did you mean --hyp?" in said
    told = "^adastride score: error: give --output"
    with pytest.raises(SystemExit, match=told):
        cli.main(["score", "--ref", "missing.txt", "--hyp", "missing.txt"])


@pytest.mark.parametrize(
    "program, prefix",
    [
        ("/usr/bin/adastride", "adastride score-times: "),
        ("/usr/bin/adastride-plot", "adastride-plot: "),
        # a recipe's call: its own lines begin with "error: ", too
        (str(ROOT / "espnet_adastride/bin/score_times.py"), ""),
    ],
)
def test_every_error_begins_with_the_command_as_called(
    program, prefix, tmp_path, monkeypatch, capsys
):
    (tmp_path / "words.ctm").touch()
    given = tmp_path / "word.ctm"
    words = ["--ctm", str(given), "--ref", str(given)]
    monkeypatch.setattr(sys, "argv", [program])
    main = score_times.main
    if program.endswith("/adastride"):
        main, words = cli.main, ["score-times", *words]
    with pytest.raises(SystemExit) as error:
        main(words)
    fix = f"did you mean {tmp_path}/words.ctm?"
    assert error.value.code == f"{prefix}error: {given}: no such file; {fix}"
    with pytest.raises(SystemExit) as error:  # argparse's own errors
        main([*words, "--reff", "x"])
    assert error.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{prefix}error: unrec")


@pytest.mark.parametrize("called, words", [("adastride report", 1), ("report.py", 0)])
def test_an_interruption_is_one_line_of_a_users_command(
    called, words, monkeypatch, capsys
):
    """What a recipe calls is silent: its driver says it."""

    @one_line_errors
    def main(cmd):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", [called])
    with pytest.raises(SystemExit) as error:
        main([])
    line = "adastride report: interrupted; nothing is lost: run the same command to "
    assert error.value.code == 130
    assert capsys.readouterr().err == f"{line}resume\n" * words


def test_a_reader_may_leave(tmp_path):
    """As in ``| head``: no traceback; the pipe of another process is not ours."""
    many = "for _ in range(99999): print('a line')"
    for body, status, said in (
        (many, 141, ""),
        ("print('x')", 141, ""),  # it is written at the end
        ("raise BrokenPipeError(32, 'a worker')", 1, "BrokenPipeError"),
    ):
        code = "from espnet_adastride.errors import one_line_errors\n@one_line_errors\n"
        code += f"def main(cmd=None):\n    {body}\nmain()"
        own, other = os.pipe()
        output = other
        if said:
            output = subprocess.DEVNULL
        os.close(own)
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=output, stderr=subprocess.PIPE
        )
        os.close(other)
        assert done.returncode == status, done.stderr
        assert said in done.stderr.decode() and bool(said) == bool(done.stderr)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "body", ["print('x')", "print('x', flush=True)", "print('x'); raise SystemExit(0)"]
)
def test_the_disk_of_the_output_is_full(body):
    """In one line, when a line is written and when the last ones are, at the end."""
    code = "from espnet_adastride.errors import one_line_errors\n@one_line_errors\n"
    code += f"def main(cmd=None):\n    {body}\nmain()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: a file or the output cannot be written")
    assert done.stderr.count("\n") == 1 and "the disk is full" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed, tmp_path):
    code = "import sys\nfrom espnet_adastride.errors import one_line_errors\n"
    code += "@one_line_errors\ndef main(cmd):\n"
    code += "    print('text'); print('line', file=sys.stderr); sys.stdin.read()\n"
    code += (
        f"    print(sys.stderr.isatty(), file=open({str(tmp_path / 'done')!r}, 'w'))"
    )
    (tmp_path / "code.py").write_text(f"{code}\nmain()\n")
    line = f'"{sys.executable}" "{tmp_path / "code.py"}" {closed}'
    ended = subprocess.run(
        line,
        shell=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
    assert (tmp_path / "done").read_text() == "False\n"
    assert ended.stdout == ("" if " >" in f" {closed}" else "text\n")
    assert ended.stderr == ("" if "2>" in closed else "line\n")


def test_a_file_that_begins_with_a_dash(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])  # which names the command
    (tmp_path / "-talk.wav").write_bytes(b"")
    with pytest.raises(SystemExit):
        cli.main(["transcribe", "--model", "m", "-talk.wav"])
    assert "for the file -talk.wav, write ./-talk.wav" in capsys.readouterr().err


def test_the_disk_and_missing_files_are_one_line(tmp_path):
    @one_line_errors
    def main(cmd=None):
        open(cmd).close()

    with pytest.raises(SystemExit, match="no such file or folder; check the path$"):
        main(str(tmp_path / "none"))
    with pytest.raises(SystemExit, match="a folder is where a file must be"):
        main(str(tmp_path))


def test_shells_complete_commands_and_options():
    pytest.importorskip("shtab")
    pytest.importorskip("espnet2")
    script = run("--completion", "bash").stdout
    for word in (*cli.COMMANDS, "--max_segment", "--inference_config", "--resamples"):
        assert word in script, word
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("word", sorted(set(cli.COMMANDS) - {"run"}))
def test_empty_values_are_rejected(word):
    """As of an unset variable: as a path, an empty value is the current folder."""
    parser = importlib.import_module(
        f"espnet_adastride.bin.{cli.COMMANDS[word]}"
    ).get_parser()
    parsers = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers = list(action.choices.values())
    checked = 0
    for parser in parsers:
        for group in parser._mutually_exclusive_groups:
            group.required = False
        for action in parser._actions:
            action.required = False
        for action in parser._actions:
            converted = action.type not in (None, from_caller) or action.choices
            if converted or action.default == "" or isinstance(action.default, list):
                continue
            if action.nargs not in (None, "+", "?"):
                continue
            names, before = action.option_strings[:1], []
            if not names:
                positional = [a for a in parser._actions if not a.option_strings]
                before = ["x"] * positional.index(action)
            with pytest.raises(
                UserError, match="is empty; check for an unset variable"
            ):
                parser.parse_args([*before, *names, ""])
            checked += 1
    assert checked
