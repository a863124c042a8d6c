#!/usr/bin/env bash
# The demo: a small corpus, synthesised by eSpeak NG in the layout of LibriSpeech, through
# the same stages as LibriSpeech. Test voices and sentences are unseen in training.
#
#   ./run.sh [--stage 10] [--option value]...        (`--help` lists all)
#   ./run.sh --local_data_opts "--train_minutes 5"   (a smaller corpus)
#   ./run.sh --say "the doctor is in paris"          (your own words, at the end)
#
# Without options, or with --say alone, it ends with a picture of one test utterance's
# strides (exp/strides.png), the transcripts of that utterance and of a sentence
# synthesised on the spot, and a report on the experiment (exp/report.html).
set -euo pipefail
unset CDPATH
export ADASTRIDE_CALLER_DIR=${PWD}
. "$(dirname "${BASH_SOURCE[0]}")/../python.sh"
export PYTHON=${python}  # for asr.sh
cd "$(dirname "${BASH_SOURCE[0]}")"

say="the captain is late and the train to paris leaves at seven"
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --say) [ $# -ge 2 ] || { echo "error: option --say needs a sentence" >&2; exit 1; }
               say=$2; shift 2 ;;
        --say=*) say=${1#*=}; shift ;;
        --help | -h)
            echo "Option of this script, beside those below:"
            echo "  --say SENTENCE  synthesise and transcribe it at the end; not with other options"
            echo
            options+=("$1"); shift ;;
        *) options+=("$1"); shift ;;
    esac
done
ours() {
    local tool=$1
    shift
    "${python}" -W ignore -m "espnet_adastride.bin.${tool}" "$@"
}
said=exp/said.wav
# Reject a sentence that cannot be synthesised now, not after the training.
[ ${#options[@]} -gt 0 ] || ours say "${say}" --output "${said}" >/dev/null

# If the CPU multiplies in bfloat16, training takes 3/4 of the time.
if grep -qs avx512_bf16 /proc/cpuinfo; then
    export ADASTRIDE_CPU_PRECISION=${ADASTRIDE_CPU_PRECISION-bf16}
fi

# Characters: the fewer blanks CTC has to place, the sooner it finds its alignment. It took
# 4 epochs to start with 100 BPE pieces, more than 9 with 400, and 2 with characters.
recipe=(
    ../asr.sh
    --lang en
    --token_type char
    --cpu_processes 2
    --fs 16k
    --train_set train_mini
    --valid_set dev_mini
    --test_sets "test_mini"
    --use_lm true
    --lm_config ../../conf/train_lm_mini.yaml
    --lm_train_text "data/train_mini/text data/local/other_text/text"
    --asr_config ../../conf/train_asr_mini.yaml
    --inference_config ../../conf/decode_asr_mini.yaml
    ${options[@]+"${options[@]}"}
)
[ ${#options[@]} -eq 0 ] || exec "${recipe[@]}"

below "${recipe[@]}"
model=exp/asr_train_asr_mini_raw_en_char
utterance=3008-300800-0000
# The packed model includes its language model.
packed=${model}/${model##*/}_valid.cer_ctc.ave.zip
# ESPnet's imports print messages about optional packages; keep them in the log
step() {
    if ! ours "$@" 2>exp/demo.log; then
        tail -n 1 exp/demo.log >&2
        exit 1
    fi
}
of() { awk -v key="${utterance}" '$1 == key { sub(/^[^ ]+ /, ""); print }' "dump/raw/test_mini/$1"; }
hear() {
    step transcribe --model "${packed}" --inference_config ../../conf/decode_asr_mini.yaml "$1"
}
heard=$(hear "$(of wav.scp)")
printf '\nOne utterance of the test set:\n  said:  %s\n  heard: %s\n' "$(of text)" "${heard}"
told=$(ours say "${say}" --output "${said}" --vocabulary data/train_mini/text)
heard=$(hear "${said}")
printf 'A sentence of your own (--say "..."):\n'
printf '%s\n' "${told}" | sed 's/^/  /'
printf '  heard: %s\n\n' "${heard}"
step plot utterance --model "${model}" --asr_model_file valid.cer_ctc.ave.pth \
    --data_dir dump/raw/test_mini --utt_id "${utterance}" --output exp/strides.png
step report "${model}" --asr_model_file valid.cer_ctc.ave.pth --output exp/report.html
echo "The strides of one test utterance: ${PWD}/exp/strides.png"
echo "The report (open it in a browser): ${PWD}/exp/report.html"
