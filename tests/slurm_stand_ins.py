"""Stand-ins for a cluster: Kaldi's ``slurm.pl`` (which ESPnet brings), and Slurm.

:func:`write_slurm_pl` makes a command that takes what slurm.pl takes and reads its
``slurm.conf`` as it does: an option that the file does not describe is refused. It
submits by ``sbatch`` and waits. :func:`write_slurm` makes an ``sbatch`` that runs a job
here and an ``srun`` that runs as many tasks as there are nodes, each told what Slurm
tells it. Where Slurm itself is installed, the first of them works with it, too.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

SLURM_PL = """\
#!/bin/sh
exec "{python}" "{file}" slurm.pl "$@"
"""
SBATCH = """\
#!/bin/sh
# the last word is the script; -o LOG; --nodes N
export SLURM_JOB_NUM_NODES=1
while [ $# -gt 1 ]; do
    case $1 in
        --nodes) export SLURM_JOB_NUM_NODES=$2 ;;
        -o) log=$2 ;;
    esac
    shift
done
exec bash "$1" >>"$log" 2>&1
"""
SRUN = """\
#!/bin/bash
[ "$1" != --export=ALL ] || shift
export SLURM_NTASKS=$SLURM_JOB_NUM_NODES SLURM_STEP_NUM_NODES=$SLURM_JOB_NUM_NODES
export SLURM_STEP_NODELIST=localhost SLURM_LOCALID=0
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_NODEID=$i "$@" &
    pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""


def _write(path, text):
    path.write_text(text)
    path.chmod(0o755)


def write_slurm_pl(folder):
    """Write ``slurm.pl`` into a folder."""
    file = Path(__file__).resolve()
    _write(folder / "slurm.pl", SLURM_PL.format(python=sys.executable, file=file))


def write_slurm(folder):
    """Write ``sbatch`` and ``srun`` into a folder."""
    _write(folder / "sbatch", SBATCH)
    _write(folder / "srun", SRUN)


def read_conf(path):
    """Return the command and ``{(option, value): words}`` of a slurm.conf."""
    command, options = "", {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:  # as slurm.pl's own defaults, which lack what launch asks for
        lines = ["command sbatch --export=PATH", "option gpu=0 -p shared"]
    for line in lines:
        line = re.sub(r"\s*#.*", "", line)
        if match := re.match(r"command (.+)", line):
            command = match[1]
        elif match := re.match(r"(option|default) ([^=]+)=(\S+)\s?(.*)", line):
            kind, name, value, words = match.groups()
            if kind == "default":
                name, value, words = "default", name, value
            options[name, value] = words
        elif line:
            sys.exit(f"slurm.pl: unable to parse line '{line}' in {path}")
    return command, options


def quote(word):
    """Return a word as slurm.pl writes it into a job: quoted if it has spaces."""
    if not re.search(r"\s", word):
        return word
    return f"'{word}'" if '"' in word else f'"{word}"'


def slurm_pl(words):
    """Submit ``[--option value]... LOG COMMAND...`` and wait for it."""
    given = {}
    while words[0].startswith("-"):
        given[words[0].lstrip("-").replace("-", "_")] = words[1]
        words = words[2:]
    conf = given.pop("config", "conf/slurm.conf")
    command, options = read_conf(conf)
    for name, value in [
        (n, v) for (kind, n), v in options.items() if kind == "default"
    ]:
        given.setdefault(name, value)
    submit = shlex.split(command)
    for name, value in given.items():
        text = options.get((name, value), options.get((name, "*")))
        if text is None:
            sys.exit(f"slurm.pl: Command line option {name} not described in {conf}")
        submit += shlex.split(text.replace("$0", value))
    log, job = Path(words[0]), " ".join(map(quote, words[1:]))
    folder = log.parent / "q"
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f"{log.stem}.sh"
    script.write_text(
        f"#!/bin/bash\ncd {Path.cwd()}\n. ./path.sh\necho '# {job}' >{log}\n"
        f'( {job} ) &>>{log}\necho "# Finished with status $?" >>{log}\n'
    )
    queue = folder / log.name
    done = subprocess.run(
        [*submit, "--wait", "-e", str(queue), "-o", str(queue), str(script)]
    )
    last = log.read_text().splitlines()[-1]
    sys.exit(0 if done.returncode == 0 and last.endswith("with status 0") else 1)


if __name__ == "__main__" and sys.argv[1] == "slurm.pl":
    slurm_pl(sys.argv[2:])
