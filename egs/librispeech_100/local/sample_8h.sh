#!/usr/bin/env bash
# The part of LibriSpeech that the results behind pretrained features come from
# (docs/results/pretrained.md), as a corpus of links:
#
#   local/sample_8h.sh LIBRISPEECH OUTPUT
#
# OUTPUT/train-clean-100 (8.02 h, 248 speakers), OUTPUT/dev-2spk (0.84 h, two other speakers
# of train-clean-100) and OUTPUT/test-clean. sample_8h.txt has a line for each chapter: set,
# chapter, and how many of its first utterances are taken.
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() { echo "error: $*" >&2; exit 1; }
[ $# -eq 2 ] || die "usage: local/sample_8h.sh LIBRISPEECH OUTPUT"
corpus=$1 output=$2
[ ! -d "${corpus}/LibriSpeech" ] || corpus=${corpus}/LibriSpeech
for part in train-clean-100 test-clean; do
    [ -d "${corpus}/${part}" ] ||
        die "no ${part} in ${corpus}; give the folder of LibriSpeech that contains it"
done
corpus=$(cd "${corpus}" && pwd)
mkdir -p "${output}"
[ "$(cd "${output}" && pwd)" != "${corpus}" ] || die "${output}: give a folder of its own"

while read -r part chapter number; do
    from=${corpus}/train-clean-100/${chapter/-//}
    to=${output}/${part}/${chapter/-//}
    mkdir -p "${to}"
    [ -f "${from}/${chapter}.trans.txt" ] ||
        die "${from}/${chapter}.trans.txt is missing; get train-clean-100 again"
    # utterances count from 0000, and the transcripts are in their order
    head -n "${number}" "${from}/${chapter}.trans.txt" >"${to}/${chapter}.trans.txt"
    files=()
    while read -r name _; do
        files+=("${from}/${name}.flac")
        [ -e "${files[-1]}" ] || die "${files[-1]} is missing; get train-clean-100 again"
    done <"${to}/${chapter}.trans.txt"
    [ ${#files[@]} -eq "${number}" ] ||
        die "${from}/${chapter}.trans.txt: fewer than ${number} lines; get it again"
    ln -sf "${files[@]}" "${to}/"
done <"${here}/sample_8h.txt"
ln -sfn "${corpus}/test-clean" "${output}/test-clean"
echo "${output}: $(wc -l <"${here}/sample_8h.txt") chapters of train-clean-100, and test-clean"
