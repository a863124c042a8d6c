"""What all commands have in common: help, version, advice, missing packages."""

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_adastride import __version__
from espnet_adastride.bin import model_options, parsers
from espnet_adastride.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(p.stem for p in (ROOT / "espnet_adastride" / "bin").glob("[a-z]*.py"))
#: no commands themselves
SHARED = ("model_options", "parsers", "text_options")
#: torch is imported before options are read
WITH_TORCH = (
    "classify classify_espnet clips_for_espnet compare_vqvae rate_curve "
    "vqvae_reconstruct vqvae_train"
).split()
BARE = [name for name in NAMES if name not in (*SHARED, *WITH_TORCH)]


def bare(name, *words):
    """Run a command without any package that is installed."""
    return subprocess.run(
        [sys.executable, "-S", "-m", f"espnet_adastride.bin.{name}", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", BARE)
def test_help_and_version_need_no_package(name):
    done = bare(name, "--help")
    assert done.returncode == 0 and "--version" in done.stdout, done.stderr
    assert f"python -m espnet_adastride.bin.{name}" in done.stdout
    assert "(default: None)" not in done.stdout
    done = bare(name, "--version")
    assert done.returncode == 0 and __version__ in done.stdout, done.stderr


@pytest.mark.parametrize(
    "name, words, package",
    [
        ("check_training", "--action read --config {}/text", "yaml"),
        ("score", "--ref {0}/text --hyp {0}/text --output {0}/out", "jiwer"),
        # stage 3, which blamed the recordings
        ("format_data", "--set {0} {0}/out", "soundfile"),
    ],
)
def test_a_missing_package_is_said_in_one_line(name, words, package, tmp_path):
    wave = tmp_path / "x.wav"
    wave.write_bytes(b"RIFF" + bytes(4000))
    for file, line in (("text", "A B"), ("wav.scp", wave), ("utt2spk", "s")):
        (tmp_path / file).write_text(f"u1 {line}\n")
    done = bare(name, *words.format(tmp_path).split())
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {package} is not installed, which this")
    assert "pip install -e '.[espnet]' -c constraints/python" in done.stderr


def test_near_options_are_suggested(capsys):
    parser = parsers.Parser(prog="x")
    parser.add_argument("--model", required=True, help="a model")
    modes = parser.add_subparsers(dest="mode")
    modes.add_parser("draw").add_argument("--output")
    for words, wanted in (
        (["--modle", "x"], "unknown option --modle: did you mean --model?"),
        (["--model", "x", "draw", "--ouput", "y"], "did you mean --output?"),
    ):
        with pytest.raises(SystemExit) as error:
            parser.parse_args(words)
        assert error.value.code == 2 and wanted in capsys.readouterr().err


def options(tmp_path, **changed):
    parser = parsers.Parser(prog="x")
    model_options.add_model_options(parser)
    args = parser.parse_args(["--model", str(tmp_path)])
    return vars(args).update(changed) or args


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"model": "no where"}, "--model no where: no such file or folder"),
        ({"asr_model_file": "x.pth"}, "x.pth: no such file"),
        ({"upstream_model": "no where"}, "--upstream_model no where: no such folder"),
    ],
)
def test_what_is_missing_is_said_before_a_model_is_loaded(tmp_path, changed, words):
    with pytest.raises(UserError, match="no config.yaml in it"):
        model_options.check_model_options(options(tmp_path))
    (tmp_path / "config.yaml").touch()
    model_options.check_model_options(options(tmp_path))
    with pytest.raises(UserError) as error:
        model_options.check_model_options(options(tmp_path, **changed))
    assert words in str(error.value)
    with pytest.raises(UserError, match="--inference_config .*no such"):
        model_options.check_model_options(options(tmp_path), "none.yaml")


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("rate_curve", "--model {0}/x --data_dir {0}", "x: no such file or folder"),
        ("vqvae_reconstruct", "--model {0} {0}", "no config.yaml in it"),
        ("extract_features", "--set {0} {0}/y --upstream whisper", "no wav.scp in it"),
    ],
)
def test_other_commands_too_say_it_before(name, words, message, tmp_path, monkeypatch):
    module = importlib.import_module(f"espnet_adastride.bin.{name}")
    for needed in ("espnet_adastride.plugin", "ctranslate2"):  # cannot be imported now
        monkeypatch.setitem(sys.modules, needed, None)
    words = words.format(tmp_path).split()
    if name != "extract_features":
        words += ["--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=message):
        module.main(words)


def test_an_interruption_while_the_model_is_loading(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").touch()

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(model_options, "quiet_imports", interrupted)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit) as error:
        model_options.load_transcriber(options(tmp_path))
    assert error.value.code == 130
    assert capsys.readouterr().err.splitlines() == [
        f"loading the model {tmp_path} ...",
        "interrupted; nothing is lost: run the same command to resume",
    ]


def test_the_recipes_driver_says_its_version():
    words = ["bash", str(ROOT / "egs" / "asr.sh"), "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"espnet_adastride {__version__}\n"


def all_parsers(parser):
    """Return a parser and those of its modes."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


@pytest.mark.parametrize("name", [n for n in NAMES if n not in SHARED])
def test_help_is_complete_and_of_one_style(name):
    if name == "vqvae_train":
        pytest.skip("its options are ESPnet's")
    module = importlib.import_module(f"espnet_adastride.bin.{name}")
    main, *modes = all_parsers(module.get_parser())
    assert main.description[0].isupper() and main.description.endswith(".")
    for parser in (main, *modes):
        text = parser.format_help()
        assert str(ROOT) not in text and "(default: [" not in text
        for action in parser._actions:
            option, said = action.option_strings or action.dest, action.help
            assert said and (not said.endswith(".") or said.endswith("...")), option
            first = re.match(r"[\w-]*", said)[0]
            name = first[1:] != first[1:].lower()
            assert name or first == first.lower(), option
