#!/usr/bin/env bash
# What the recipes of classification share; egs/NAME/run.sh calls it from its folder.
#
#   ../classify.sh NAME CORPUS CALLER [--download true] [options of bin/classify.py]
#
# CORPUS: the user's path, from the folder CALLER, or empty: then downloads/NAME, which
# --download true fills from the corpus' publisher. Hyper-parameters: conf/train_NAME.yaml.
# Without options: all methods, seeds 0 1 2, a run at a time on every core.
set -euo pipefail
name=$1 corpus=$2 caller=$3
shift 3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x "${root}/.venv/bin/python" ]; then
    python=${root}/.venv/bin/python
fi

if [ -n "${corpus}" ] && [ "${corpus:0:1}" != / ]; then corpus=${caller}/${corpus}; fi
options=()
while [ $# -gt 0 ]; do
    if [ "$1" = --download ]; then
        if [ "${2:-}" = true ]; then
            corpus=${corpus:-downloads/${name}}
            "${python}" -W ignore -m espnet_adastride.bin.download_corpus \
                --name "${name}" --corpus "${corpus}"
        elif [ "${2:-}" != false ]; then
            echo "error: --download ${2:-}: give true or false" >&2
            exit 2
        fi
        shift 2
    else
        options+=("$1")
        shift
    fi
done
if [ -z "${corpus}" ] && [ -d "downloads/${name}" ]; then corpus=downloads/${name}; fi
if [ -z "${corpus}" ]; then
    variable=$(tr '[:lower:]' '[:upper:]' <<<"${name}")
    case " ${options[*]-} " in
        *" --corpus "* | *" --train false "* | *" --help "* | *" -h "*) ;;
        *)
            echo "error: say where the corpus lies: ${variable}=/path/to/${name} ./run.sh," \
                "or ./run.sh --download true" >&2
            exit 2
            ;;
    esac
fi

exec "${python}" -W ignore -m espnet_adastride.bin.classify \
    --config "../../conf/train_${name}.yaml" \
    --exp "exp/${name}" \
    --nj "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" \
    ${corpus:+--corpus "${corpus}"} \
    ${options[@]+"${options[@]}"}
