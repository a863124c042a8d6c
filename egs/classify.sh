#!/usr/bin/env bash
# Shared by the classification recipes; egs/NAME/run.sh calls it from its folder.
#
#   ../classify.sh NAME CORPUS CALLER SEEDS [--download true] [--espnet true] [OPTION]...
#
# CORPUS: the user's path, relative to the folder CALLER, or empty: then downloads/NAME,
# which --download true fills from the corpus' publisher.
#
# The command is bin/classify.py: a small network without ESPnet, hyper-parameters in
# conf/train_NAME.yaml; by default all methods, one run per core. With
# --espnet true it is bin/classify_espnet.py: the paper's network, through ESPnet's task
# cls, hyper-parameters in conf/train_cls_resnet.yaml; strided_conv and adastride, seed 0.
set -euo pipefail
unset CDPATH
name=$1 corpus=$2 caller=$3 seeds=$4
shift 4
export ADASTRIDE_CALLER_DIR=${caller}  # where relative paths in the options are looked up, too
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [ -n "${corpus}" ] && [ "${corpus:0:1}" != / ]; then corpus=${caller}/${corpus}; fi
download=false espnet=false options=()
while [ $# -gt 0 ]; do
    case $1 in
        --download=* | --espnet=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        --download | --espnet)
            if [ "${2:-}" != true ] && [ "${2:-}" != false ]; then
                echo "error: $1 ${2:-}: give true or false" >&2
                exit 2
            fi
            declare "${1#--}=$2"
            shift 2
            ;;
        *)
            if [ "$1" = --help ] || [ "$1" = -h ]; then
                echo "Options of this script, beside those of the command below (--corpus, --config,"
                echo "--exp, --nj and --seeds have defaults here):"
                echo "  --download true  get the corpus from its publisher if it is missing"
                echo "  --espnet true    train through ESPnet's task cls; its options: --espnet true --help"
                echo
            fi
            options+=("$1")
            shift
            ;;
    esac
done
if [ "${download}" = true ]; then
    corpus=${corpus:-downloads/${name}}
    below "${python}" -W ignore -m espnet_adastride.bin.download_corpus \
        --name "${name}" --corpus "${corpus}"
fi
if [ -z "${corpus}" ] && [ -d "downloads/${name}" ]; then corpus=downloads/${name}; fi
if [ -z "${corpus}" ]; then
    variable=$(tr '[:lower:]' '[:upper:]' <<<"${name}")
    case " ${options[*]-} " in
        *" --corpus"[\ =]* | *" --train"[\ =]"false "* | *" --help "* | *" -h "*) ;;
        *)
            echo "error: give the folder of the corpus: ${variable}=/path/to/${name} ./run.sh," \
                "or ./run.sh --download true" >&2
            exit 2
            ;;
    esac
fi

jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
if [ "${espnet}" = true ]; then
    case " ${options[*]-} " in
        *" --ngpu"[\ =]"0 "*) ;;
        *" --ngpu"[\ =]*) jobs=1 ;; # several would share the GPU
    esac
    command=(classify_espnet --config ../../conf/train_cls_resnet.yaml
        --data_config "../../conf/train_${name}.yaml" --exp "exp/${name}_espnet")
else
    command=(classify --config "../../conf/train_${name}.yaml" --exp "exp/${name}"
        --seeds "${seeds}")
fi
exec "${python}" -W ignore -m "espnet_adastride.bin.${command[0]}" "${command[@]:1}" \
    --nj "${jobs}" ${corpus:+--corpus "${corpus}"} ${options[@]+"${options[@]}"}
