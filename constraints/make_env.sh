#!/usr/bin/env bash
# Make the environment of `make demo` and `make test`: a Python, ESPnet and all else at the
# versions in python3.*.txt beside this file. The Makefile calls it.
#
#   constraints/make_env.sh FOLDER [PYTHON]     PYTHON: a command or path; empty: the newest
#   constraints/make_env.sh --find [VERSION]... print the first of these that runs
#
# An environment that is there and complete is kept. One that another Python, another
# set of versions or an interrupted run left is named and made anew.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "${here}")
uv=uv==0.13.9
versions=(3.13 3.12 3.11 3.10)

die() { echo "error: $*" >&2; exit 1; }

# The version (3.13) of a Python that runs and has what an environment needs; nothing for
# one that does not run: a pyenv shim of a Python that is not installed prints an error.
version_of() {
    "$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# Print the first Python of these versions that runs: on the PATH, or installed by pyenv.
find_python() {
    local version candidate pyenv_root
    pyenv_root=$(pyenv root 2>/dev/null || echo "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}")
    for version in "$@"; do
        for candidate in "python${version}" python3 python \
                "${pyenv_root}/versions/${version}".*/bin/python; do
            if [ "$(version_of "${candidate}")" = "${version}" ]; then
                "${candidate}" -c 'import sys; print(sys.executable)'  # not a shim
                return
            fi
        done
    done
    return 1
}

if [ "${1:-}" = --find ]; then
    shift
    find_python "${@:-${versions[@]}}"
    exit
fi
[ $# -ge 1 ] || die "usage: ${0##*/} FOLDER [PYTHON]"
folder=$1 chosen=${2:-} ready=$1/.ready

made_with=$(sed -n 's/^python //p' "${ready}" 2>/dev/null || true)
if [ -z "${chosen}" ] && [ "$(sed -n 's/^chosen //p' "${ready}" 2>/dev/null)" = yes ] &&
        [ "$(version_of "${folder}/bin/python")" = "${made_with}" ]; then
    python=${folder}/bin/python version=${made_with} was_chosen=yes  # by an earlier PYTHON=
elif [ -n "${chosen}" ]; then
    # python3.13 may be a shim that does not run, of a Python that pyenv has
    [ -n "$(version_of "${chosen}")" ] || chosen=$(find_python "${chosen#python}") ||
        die "PYTHON=$2: it does not run, or has no venv (Debian: apt-get install python3-venv); these run here: $(
            for version in "${versions[@]}"; do find_python "${version}" || true; done | paste -sd' ')"
    version=$(version_of "${chosen}") was_chosen=yes
    python=$("${chosen}" -c 'import sys; print(sys.executable)')
else
    was_chosen=no
    python=$(find_python "${versions[@]}") ||
        die "no Python ${versions[*]} that runs on the PATH or in pyenv; install one (with venv), or name it: make PYTHON=/path/to/python3.13"
    version=$(version_of "${python}")
fi
pins=${here}/python${version}.txt
[ -f "${pins}" ] ||
    die "PYTHON=${python} is Python ${version}; ESPnet runs on 3.13 and 3.12 (202611), 3.11 and 3.10 (202511): name one of these, PYTHON=python3.13"
espnet=$(sed -n 's/^espnet==//p' "${pins}")
wanted="python ${version}
chosen ${was_chosen}
versions $(cat "${pins}" "${root}/pyproject.toml" "${root}/setup.py" | cksum | cut -d' ' -f1)"

if [ "$(cat "${ready}" 2>/dev/null)" = "${wanted}" ]; then
    exit 0
fi
if [ "$(grep -v ^chosen "${ready}" 2>/dev/null)" = "$(grep -v ^chosen <<<"${wanted}")" ]; then
    echo "${wanted}" >"${ready}"
    exit 0
fi
echo "Python ${version} (${python}), ESPnet ${espnet}; another: make PYTHON=python3.11"
if [ -e "${folder}" ]; then
    there=$(version_of "${folder}/bin/python")
    if [ -z "${made_with}" ]; then why="unfinished, or made by an earlier version of this project"
    elif [ "${there:-none}" != "${version}" ]; then why="of Python ${there:-that no longer runs}"
    else why="of other versions"; fi
    [ -e "${folder}/pyvenv.cfg" ] || die "${folder} is there and is no Python environment: move it away"
    echo "The environment in ${folder} is ${why}: it is made anew"
fi
echo "Making the environment in ${folder} (3 to 6 GB with PyTorch's CUDA libraries; minutes)"
# the Python below a virtual environment, which may be the one that is removed here
python=$("${python}" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')
rm -rf "${folder}"
"${python}" -m venv "${folder}"
"${folder}/bin/python" -m pip install --quiet --disable-pip-version-check "${uv}"
VIRTUAL_ENV=$(cd "${folder}" && pwd) "${folder}/bin/uv" pip install --quiet --constraint "${pins}" \
    --editable "${root}[espnet,demo,vqvae,pretrained,export,test]"
echo "${wanted}" >"${ready}"
