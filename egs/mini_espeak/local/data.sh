#!/usr/bin/env bash
# Stage 1 of the demo: synthesise the corpus (a complete one is left alone, an interrupted
# one is completed), then prepare it like LibriSpeech; the language model's text goes where
# ESPnet's librispeech recipe puts it.
set -euo pipefail
nj=1 python=python3 corpus_options=() data_options=()
while [ $# -gt 0 ]; do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    [ $# -ge 2 ] || { echo "error: $1 needs a value (--local_data_opts)" >&2; exit 1; }
    case $1 in
        --seed | --*_minutes | --lm_sentences) corpus_options+=("$1" "$2") ;;
        --download) ;;  # nothing to download
        --sets | --fs | --nj | --python | --rerun)
            data_options+=("$1" "$2")
            case $1 in --nj) nj=$2 ;; --python) python=$2 ;; esac ;;
        *) echo "error: unknown option $1 for local/data.sh (--local_data_opts)" >&2; exit 1 ;;
    esac
    shift 2
done
if [ -x "${python}" ]; then py=("${python}"); else read -ra py <<<"${python}"; fi

"${py[@]}" -m espnet_adastride.bin.make_espeak_corpus --output corpus --nj "${nj}" \
    ${corpus_options[@]+"${corpus_options[@]}"}
mkdir -p data/local/other_text
awk '{ printf("mini_lng_%08d %s\n", NR, $0) }' corpus/LibriSpeech/mini-lm-norm.txt \
    >data/local/other_text/text.new
mv data/local/other_text/text.new data/local/other_text/text
export LIBRISPEECH=${PWD}/corpus
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec bash "${here}/../../librispeech_100/local/data.sh" "${data_options[@]}"
