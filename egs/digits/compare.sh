#!/usr/bin/env bash
# The grid of docs/results/connected_digits.md: methods x rates x seeds, then
# exp/comparison.md.
#
#   FSDD=/path/to/free-spoken-digit-dataset ./compare.sh --nj 2 [--option value]...
#
# Options given here override those below (`--help` lists all); PYTHON= selects the
# Python. The same command resumes an interrupted grid.
set -euo pipefail
unset CDPATH
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "${recipe}/../.." && pwd)
. "${root}/egs/python.sh"

exec "${python}" -W ignore -m espnet_adastride.bin.compare \
    --recipe "${recipe}" \
    --asr_config "${root}/conf/train_digits.yaml" \
    --methods strided_conv avg_pool blur_pool diff_stride adastride adastride_f \
    --rates 4 8 12 \
    --seeds 0 1 2 \
    "$@"
