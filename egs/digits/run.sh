#!/usr/bin/env bash
# Connected digits, 3 to 8 recordings of the Free Spoken Digit Dataset in a row, by a
# speaker unseen in training: small enough to compare downsampling methods over seeds.
#
#   FSDD=/path/to/free-spoken-digit-dataset ./run.sh [--stage 10] [--option value]...
#   ./run.sh --download true       (20 MB from its publisher, unless FSDD exists)
#
# Another method or rate (compare.sh runs a whole grid of them):
#   ./run.sh --stage 11 --asr_args "--encoder_conf input_layer=avg_pool"
set -euo pipefail
unset CDPATH
export ADASTRIDE_CALLER_DIR=${PWD}
if [ -n "${FSDD:-}" ] && [ "${FSDD:0:1}" != / ]; then
    FSDD=${PWD}/${FSDD}
fi
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./db.sh

exec ../asr.sh \
    --token_type char \
    --fs 8k \
    --train_set train \
    --valid_set dev \
    --test_sets "test" \
    --asr_config ../../conf/train_digits.yaml \
    --inference_config ../../conf/decode_ctc_greedy.yaml \
    "$@"
