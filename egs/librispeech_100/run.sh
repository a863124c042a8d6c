#!/usr/bin/env bash
# LibriSpeech train-clean-100, with the sets and options of ESPnet's librispeech_100.
#
#   LIBRISPEECH=/path/to/LibriSpeech ./run.sh [--stage 10] [--option value]...
#
# Options given here override those below (`--help` lists all). A set is a part of the
# corpus with _ for -; `dev` is dev-clean and dev-other together. A part of the corpus
# suffices:  ./run.sh --valid_set dev_clean --test_sets "dev_clean test_clean"
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
    --nbpe 5000 \
    --fs 16k \
    --max_wav_duration 30 \
    --train_set train_clean_100 \
    --valid_set dev \
    --test_sets "test_clean test_other dev_clean dev_other" \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --asr_config "train_asr_conformer.yaml adastride_4x.yaml" \
    --inference_config ../../conf/decode_asr.yaml \
    "$@"
