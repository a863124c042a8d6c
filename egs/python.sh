# Which Python the recipes use: PYTHON= if given, otherwise the environment made by `make`
# (.venv), otherwise the python3 on the PATH. Sourced; sets `python` and PYTHONPATH.
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
