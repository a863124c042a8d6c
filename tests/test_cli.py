"""The one command: it lists, starts fast, and hands over to the commands of bin/."""

import importlib
import subprocess
import sys

import pytest

from espnet_adastride import __version__, cli


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
    with pytest.raises(SystemExit, match="score: error: give --output"):
        cli.main(["score", "--ref", "missing.txt", "--hyp", "missing.txt"])


def test_shells_complete_commands_and_options():
    pytest.importorskip("shtab")
    pytest.importorskip("espnet2")
    script = run("--completion", "bash").stdout
    for word in (*cli.COMMANDS, "--max_segment", "--inference_config", "--resamples"):
        assert word in script, word
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
