#!/usr/bin/env bash
# The demo: a small corpus, synthesised by eSpeak NG in LibriSpeech's layout, through the
# very stages that LibriSpeech takes. Test voices and sentences are unseen in training.
#
#   ./run.sh [--stage 10] [--option value]...        (`--help` lists all)
#   ./run.sh --local_data_opts "--train_minutes 5"   (a smaller corpus)
#
# Without options it ends with a picture of one test utterance's strides, exp/strides.png.
set -euo pipefail
export ADASTRIDE_CALLER_DIR=${PWD}
cd "$(dirname "${BASH_SOURCE[0]}")"

# Where the CPU multiplies in bfloat16, training takes 3/4 of the time.
if grep -qs avx512_bf16 /proc/cpuinfo; then
    export ADASTRIDE_CPU_PRECISION=${ADASTRIDE_CPU_PRECISION-bf16}
fi

# Characters: CTC finds its alignment sooner the less blank it has to place. With 100 BPE
# pieces it took 4 epochs to start, with 400 more than 9, with characters 2.
../asr.sh \
    --lang en \
    --token_type char \
    --cpu_processes 2 \
    --fs 16k \
    --train_set train_mini \
    --valid_set dev_mini \
    --test_sets "test_mini" \
    --use_lm true \
    --lm_config ../../conf/train_lm_mini.yaml \
    --lm_train_text "data/train_mini/text data/local/other_text/text" \
    --asr_config ../../conf/train_asr_mini.yaml \
    --inference_config ../../conf/decode_asr_mini.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    "$@"

if [ $# -eq 0 ]; then
    python=python3
    [ ! -x ../../.venv/bin/python ] || python=../../.venv/bin/python
    # ESPnet's imports write about optional packages; the log keeps that
    if ! "${python}" -W ignore -m espnet_adastride.bin.plot_strides \
        --asr_exp exp/asr_train_asr_mini_raw_en_char \
        --asr_model_file valid.cer_ctc.ave.pth \
        --data_dir dump/raw/test_mini --utt_id 3008-300800-0000 \
        --output exp/strides.png 2>exp/strides.log; then
        tail -n 1 exp/strides.log >&2
        exit 1
    fi
    echo "The strides of one test utterance: ${PWD}/exp/strides.png"
fi
