# Which Python the recipes use: PYTHON= if given, otherwise the environment made by `make`
# (.venv), otherwise the python3 on the PATH. Sourced; sets `python` and PYTHONPATH, and
# defines `below`, which runs a command that ends with this script.
_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="${_root}${PYTHONPATH:+:${PYTHONPATH}}"
python=${PYTHON:-}
if [ -z "${python}" ]; then
    python=python3
    [ ! -x "${_root}/.venv/bin/python" ] || python=${_root}/.venv/bin/python
elif [ "${python}" != "${python##*/}" ] && [ "${python:0:1}" != / ]; then
    # a path relative to the caller's folder; recipes change to their own folder
    python=${ADASTRIDE_CALLER_DIR:-${PWD}}/${python}
fi
unset _root
below() {
    local child
    set -m  # a process group of its own, which the traps end as a whole
    "$@" &
    child=$!
    set +m
    # shellcheck disable=SC2064
    trap "trap '' INT TERM HUP; kill -TERM -- -${child} || :; wait ${child} || :; exit 130" INT TERM HUP
    wait "${child}" || return
    trap - INT TERM HUP
}
