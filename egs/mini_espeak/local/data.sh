#!/usr/bin/env bash
# Stage 1 of the demo: synthesise the corpus (a whole one is left alone, an interrupted
# one is finished), then prepare it as LibriSpeech is prepared.
set -euo pipefail
nj=1 python=python3 corpus_options=() data_options=()
while [ $# -gt 0 ]; do
    case $1 in
        --seed | --*_minutes) corpus_options+=("$1" "$2") ;;
        --download) ;;  # nothing to download
        *) data_options+=("$1" "$2")
           case $1 in --nj) nj=$2 ;; --python) python=$2 ;; esac ;;
    esac
    shift 2
done
if [ -x "${python}" ]; then py=("${python}"); else read -ra py <<<"${python}"; fi

"${py[@]}" -m espnet_adastride.bin.make_espeak_corpus --output corpus --nj "${nj}" \
    ${corpus_options[@]+"${corpus_options[@]}"}
export LIBRISPEECH=${PWD}/corpus
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec bash "${here}/../../librispeech_100/local/data.sh" "${data_options[@]}"
