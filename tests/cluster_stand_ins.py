"""Stand-ins for clusters: Kaldi's runners (which ESPnet brings), schedulers, MPI.

:func:`write_runner` makes a ``slurm.pl``, ``queue.pl`` or ``pbs.pl``: a command that
takes what they take and reads their ``.conf`` as they do, so that an option that the
file does not describe is refused. It submits by ``sbatch`` or ``qsub`` and waits.

:func:`write_slurm` makes an ``sbatch`` that runs a job here and an ``srun`` that
runs as many tasks as there are nodes, each told what Slurm tells it. :func:`write_grid`
makes a ``qsub`` that runs a job here; :func:`write_mpi` an ``mpirun`` and a package
``mpi4py`` that knows rank and size. Where Slurm or MPI is installed, the rest works
with it, too.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

RUNNER = """\
#!/bin/sh
exec "{python}" "{file}" {name} "$@"
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
QSUB = """\
#!/bin/sh
# the last word is the script; -o LOG
while [ $# -gt 1 ]; do
    [ "$1" != -o ] || log=$2
    shift
done
exec bash "$1" >>"$log" 2>&1
"""
MPIRUN = """\
#!/bin/bash
# -np N COMMAND...: if one process fails, the others are ended, as by Open MPI
number=$2
shift 2
for ((i = 0; i < number; i++)); do
    STAND_IN_RANK=$i STAND_IN_SIZE=$number "$@" &
    pids+=($!)
done
for pid in "${pids[@]}"; do
    wait -n || { kill -9 "${pids[@]}"; exit 1; }
done 2>/dev/null
"""
MPI4PY = """\
import os


class COMM_WORLD:
    def Get_rank():
        return int(os.environ["STAND_IN_RANK"])

    def Get_size():
        return int(os.environ["STAND_IN_SIZE"])


def Finalize():
    pass
"""


def _write(path, text):
    path.write_text(text)
    path.chmod(0o755)


def write_runner(folder, name):
    """Write ``slurm.pl``, ``queue.pl`` or ``pbs.pl`` into a folder."""
    file = Path(__file__).resolve()
    text = RUNNER.format(python=sys.executable, file=file, name=name)
    _write(folder / name, text)


def write_slurm(folder):
    """Write ``sbatch`` and ``srun`` into a folder."""
    _write(folder / "sbatch", SBATCH)
    _write(folder / "srun", SRUN)


def write_grid(folder):
    """Write ``qsub`` into a folder."""
    _write(folder / "qsub", QSUB)


def write_mpi(folder):
    """Write ``mpirun`` and the package ``mpi4py`` into a folder."""
    _write(folder / "mpirun", MPIRUN)
    (folder / "mpi4py").mkdir()
    (folder / "mpi4py" / "__init__.py").touch()
    (folder / "mpi4py" / "MPI.py").write_text(MPI4PY)


def read_conf(name, path):
    """Return the command and ``{(option, value): words}`` of a runner's file."""
    command, options = "", {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:  # as the runners' own defaults, which lack what launch asks for
        lines = ["command sbatch --export=PATH", "option gpu=0 -p shared"]
    for line in lines:
        line = re.sub(r"\s*#.*", "", line)
        if match := re.match(r"command (.+)", line):
            command = match[1]
        elif match := re.match(r"(option|default) ([^=]+)=(\S+)\s?(.*)", line):
            kind, option, value, words = match.groups()
            if kind == "default":
                option, value, words = "default", option, value
            elif name != "slurm.pl" and value == "*" and "$0" not in words:
                sys.exit(
                    f"{name}: Unable to parse line '{line}' in config file ({path})"
                )
            options[option, value] = words
        elif line:
            sys.exit(f"{name}: unable to parse line '{line}' in config file ({path})")
    return command, options


def quote(word):
    """Return a word as a runner writes it into a job: quoted if it has spaces."""
    if not re.search(r"\s", word):
        return word
    return f"'{word}'" if '"' in word else f'"{word}"'


def run_on_cluster(runner, words):
    """Submit ``[--option value]... LOG COMMAND...`` and wait for it."""
    given = {}
    while words[0].startswith("-"):
        given[words[0].lstrip("-").replace("-", "_")] = words[1]
        words = words[2:]
    kind = runner.removesuffix(".pl")
    conf = given.pop("config", f"conf/{kind}.conf")
    command, options = read_conf(runner, conf)
    for name, value in [
        (n, v) for (kind, n), v in options.items() if kind == "default"
    ]:
        given.setdefault(name, value)
    submit = shlex.split(command)
    for name, value in given.items():
        text = options.get((name, value), options.get((name, "*")))
        if text is None:
            sys.exit(f"{runner}: Command line option {name} not described in {conf}")
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
    wait = ["--wait", "-e", str(queue)] if kind == "slurm" else ["-sync", "y"]
    done = subprocess.run([*submit, *wait, "-o", str(queue), str(script)])
    last = log.read_text().splitlines()[-1]
    sys.exit(0 if done.returncode == 0 and last.endswith("with status 0") else 1)


if __name__ == "__main__":
    run_on_cluster(sys.argv[1], sys.argv[2:])
