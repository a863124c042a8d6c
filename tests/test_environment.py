"""constraints/make_env.sh: which Python, which versions, when an environment is kept.

The Pythons here are stand-ins that print what a Python would and make a folder instead
of an environment; a real one is what these tests run in.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
# "python{version}": answers what make_env.sh asks
case "$*" in
    *executable*) echo "$0" ;;
    *version_info*) echo {version} ;;
    "-m venv "*) mkdir -p "$3/bin" && touch "$3/pyvenv.cfg"
                 cp "$0" "$3/bin/python"
                 printf '#!/bin/sh\\necho "$@" >>"%s/installed"\\n' "$3" >"$3/bin/uv"
                 echo "{uv}" >>"$3/bin/uv"
                 chmod +x "$3/bin/uv" ;;
    "-m pip "*) ;;
    *) exit 3 ;;
esac
"""
SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"


TOOLS = (
    "bash cat chmod cksum cp cut dirname env grep mkdir rm sed sh touch paste".split()
)


class Machine:
    """A PATH with stand-ins and no other Python, and a clone with the script."""

    def __init__(self, folder):
        self.bin, self.clone = folder / "bin", folder / "a clone"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        shutil.copytree(ROOT / "constraints", self.clone / "constraints")
        for name in ("pyproject.toml", "setup.py"):
            shutil.copy(ROOT / name, self.clone)
        self.venv = self.clone / ".venv"

    def python(self, version, text=PYTHON, uv="exit 0", folder=None):
        path = (folder or self.bin) / f"python{version if folder is None else ''}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{version}", version).replace("{uv}", uv))
        path.chmod(0o755)
        return path

    def make(self, *words):
        return subprocess.run(
            [self.clone / "constraints" / "make_env.sh", *words],
            cwd=self.clone,
            env={"PATH": str(self.bin), "HOME": str(self.bin)},
            capture_output=True,
            text=True,
        )

    def installed(self):
        return (self.venv / "installed").read_text()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_newest_that_runs_is_taken(machine):
    machine.python("3.13", SHIM)  # of a Python that is not installed
    machine.python("3.12")
    machine.python("3.11")
    done = machine.make(".venv")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Python 3.12 .*ESPnet 202611; another: make PYTHON=", done.stdout)
    assert "python3.12.txt" in machine.installed()
    assert machine.make(".venv").stdout == ""  # kept, without a word


def test_pythons_of_pyenv_count(machine):
    machine.python("3.13", SHIM)
    machine.python("3.11")
    folder = machine.bin / ".pyenv" / "versions" / "3.13.2" / "bin"
    machine.python("3.13", folder=folder)
    done = machine.make(".venv", "python3.13")
    assert f"Python 3.13 ({folder}/python), ESPnet 202611" in done.stdout
    assert machine.make("--find", "3.11", "3.10").stdout.strip().endswith("python3.11")


def test_another_kind_is_named_and_rebuilt(machine):
    old, _ = machine.python("3.11"), machine.python("3.13")
    assert machine.make(".venv", str(old)).returncode == 0
    # what was asked for stays, until something else is asked for
    assert machine.make(".venv").stdout == ""
    done = machine.make(".venv", "python3.13")
    assert ".venv is of Python 3.11: it is made anew" in done.stdout
    assert "python3.11.txt" not in machine.installed()
    pins = machine.clone / "constraints" / "python3.13.txt"
    pins.write_text(pins.read_text() + "# another pin\n")
    assert ".venv is of other versions" in machine.make(".venv").stdout


@pytest.mark.parametrize("name", ("pyproject.toml", "setup.py"))
def test_another_requirement_is_another_environment(machine, name):
    machine.python("3.13")
    assert machine.make(".venv").returncode == 0
    path = machine.clone / name
    path.write_text(path.read_text() + "# another requirement\n")
    assert ".venv is of other versions" in machine.make(".venv").stdout
    assert machine.make(".venv").stdout == ""


def test_an_interrupted_installation_is_made_anew(machine):
    machine.python("3.13", uv="exit 9")
    assert machine.make(".venv").returncode != 0
    machine.python("3.13")
    done = machine.make(".venv")
    assert ".venv is unfinished" in done.stdout and done.returncode == 0


def test_what_cannot_be_used_is_one_line(machine):
    def refused(*words):
        done = machine.make(".venv", *words)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        return done.stderr

    assert "no Python 3.13 3.12 3.11 3.10 that runs" in refused()
    machine.python("3.11")
    machine.python("3.8")
    assert "is Python 3.8; ESPnet runs on 3.13" in refused("python3.8")
    message = refused("python3.14")
    assert "PYTHON=python3.14: it does not run" in message and "python3.11" in message
    machine.venv.mkdir()
    assert "is no Python environment: move it away" in refused()
