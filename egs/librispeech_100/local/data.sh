#!/usr/bin/env bash
# Stage 1 for corpora in LibriSpeech's layout: data/<set> for every requested set.
# Called by egs/asr.sh in the recipe's folder, with LIBRISPEECH from db.sh.
set -euo pipefail
sets= fs=16k nj=1 python=python3 download=false rerun=false
while [ $# -gt 0 ]; do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    [ $# -ge 2 ] || { echo "error: $1 needs a value (--local_data_opts)" >&2; exit 1; }
    case $1 in
        --sets | --fs | --nj | --python | --download | --rerun)
            printf -v "${1#--}" %s "$2"; shift 2 ;;
        *) echo "error: unknown option $1 for local/data.sh (--local_data_opts)" >&2; exit 1 ;;
    esac
done
if [ -x "${python}" ]; then py=("${python}"); else read -ra py <<<"${python}"; fi

parts_of() {  # SET: the parts of the corpus that form it
    case $1 in
        dev) echo "dev-clean dev-other" ;;
        *) echo "${1//_/-}" ;;
    esac
}
corpus=${LIBRISPEECH:?set LIBRISPEECH to the corpus, or write it into db.sh}
[ ! -d "${corpus}/LibriSpeech" ] || corpus=${corpus}/LibriSpeech

has_utterances() {  # FOLDER OF A PART; one that is empty is missing, too
    [ -n "$(find -L "$1" -mindepth 3 -maxdepth 3 \( -name '*.flac' -o -name '*.trans.txt' \) \
        -print -quit 2>/dev/null)" ]
}
missing=()
for name in ${sets}; do
    for part in $(parts_of "${name}"); do
        has_utterances "${corpus}/${part}" || [[ " ${missing[*]-} " == *" ${part} "* ]] ||
            missing+=("${part}")
    done
done
if [ ${#missing[@]} -gt 0 ] && [ "${download}" = true ]; then
    "${py[@]}" -m espnet_adastride.bin.download_librispeech --corpus "${LIBRISPEECH}" \
        --part "${missing[@]}"
    [ ! -d "${LIBRISPEECH}/LibriSpeech" ] || corpus=${LIBRISPEECH}/LibriSpeech
elif [ ${#missing[@]} -gt 0 ]; then
    found=()
    for folder in "${corpus}"/*/; do
        folder=${folder%/}
        ! has_utterances "${folder}" || found+=("${folder##*/}")
    done
    if [ ${#found[@]} -gt 0 ]; then what="which contains: ${found[*]}"
    elif [ ! -e "${corpus}" ]; then what="which does not exist"
    elif [ ! -d "${corpus}" ]; then what="which is not a folder"
    elif [ ! -r "${corpus}" ]; then what="which cannot be read"
    elif compgen -G "${corpus}/*/*/*.trans.txt" >/dev/null; then
        what="which is itself a part of it (give its parent folder)"
    else what="which contains: nothing of LibriSpeech (PART/SPEAKER/CHAPTER/*.flac)"; fi
    echo "error: ${missing[*]} not in ${corpus}, ${what}; give" \
        "the corpus folder (LIBRISPEECH=/path or db.sh), name existing sets" \
        "(--train_set, --valid_set, --test_sets), or give --download true" >&2
    exit 1
fi

for name in ${sets}; do
    read -ra parts <<<"$(parts_of "${name}")"
    trees=()
    for part in "${parts[@]}"; do trees+=(--tree "${corpus}/${part}"); done
    "${py[@]}" -m espnet_adastride.bin.stage_stamp run --rerun "${rerun}" \
        --stamp "data/${name}/.stage_done" "${trees[@]}" \
        --output "data/${name}/wav.scp" --output "data/${name}/text" \
        --output "data/${name}/utt2spk" --output "data/${name}/spk2utt" \
        --summary "data/${name} from ${corpus}/{${parts[*]}}" -- \
        "${py[@]}" -m espnet_adastride.bin.prepare_librispeech --corpus "${corpus}" \
        --part "${parts[@]}" --output "data/${name}" --nj "${nj}"
done
