#!/usr/bin/env bash
# Stage 1: connected digits from the Free Spoken Digit Dataset, data/{train,dev,test}.
# Called by egs/asr.sh in the recipe's folder, with FSDD from db.sh; extra options
# (--local_data_opts) are those of espnet_adastride.bin.prepare_digits.
set -euo pipefail
sets= python=python3 download=false rerun=false options=()
while [ $# -gt 0 ]; do
    case $1 in
        --sets | --fs | --nj | --python | --download | --rerun)
            [ $# -ge 2 ] || { echo "error: $1 needs a value (--local_data_opts)" >&2; exit 1; }
            printf -v "${1#--}" %s "$2"; shift 2 ;;  # not used: fs (stage 3 resamples), nj
        *) options+=("$1"); shift ;;
    esac
done
if [ -x "${python}" ]; then py=("${python}"); else read -ra py <<<"${python}"; fi

for name in ${sets}; do
    case ${name} in
        train | dev | test) ;;
        *) echo "error: unknown set ${name}: digits has train, dev and test" >&2
           exit 1 ;;
    esac
done
corpus=${FSDD:?set FSDD to the data set, or write it into db.sh}
if [ "${download}" = true ]; then
    "${py[@]}" -m espnet_adastride.bin.download_corpus --name fsdd --corpus "${corpus}"
elif [ ! -d "${corpus}" ]; then
    echo "error: ${corpus} does not exist; give the folder of the Free Spoken Digit Dataset" \
        "(FSDD=/path or db.sh), or --download true (20 MB)" >&2
    exit 1
fi
outputs=()
for name in train dev test; do
    for file in wav.scp text utt2spk spk2utt utt2recordings; do
        outputs+=(--output "data/${name}/${file}")
    done
done
"${py[@]}" -m espnet_adastride.bin.stage_stamp run --rerun "${rerun}" \
    --stamp data/.digits_done --tree "${corpus}" --option "options=${options[*]-}" \
    "${outputs[@]}" --summary "data/{train,dev,test} from ${corpus}" -- \
    "${py[@]}" -m espnet_adastride.bin.prepare_digits --corpus "${corpus}" \
    --output data --audio corpus ${options[@]+"${options[@]}"}
