#!/usr/bin/env bash
# Discrete representations: VQ-VAEs of speech with several downsampling methods, from any
# folder of recordings. By default: strided_conv, avg_pool and adastride_f at 4x, 8x and
# 16x, seeds 0 1 2, one run per core.
#
#   RECORDINGS=/path/to/folder ./run.sh [--option value]...
#
#   ./run.sh --methods "strided_conv adastride_f" --rates 8 --seeds 0
#   ./run.sh --methods "strided_conv+strided_conv+adastride_f" --rates 8   (one per stage)
#   ./run.sh --train false                               (table of the finished runs)
#   ./run.sh --help
#
# The folder may have audio of any format (docs/audio.md), at any depth. With a file trans.txt
# in it (NAME TEXT lines), the split is by text: it was written for one reader's recordings
# of the CMU ARCTIC prompts. Steps: data, statistics, training, reconstruction, table, page.
# Finished runs are kept, and the same command resumes interrupted ones; use another --exp
# for other hyper-parameters (they are all in ../../conf/train_vqvae.yaml).
#
#   exp/RESULTS.md      error, codebook perplexity, bits per second, paired tests
#   exp/listen.html     recordings and reconstructions, one file
set -euo pipefail
unset CDPATH
export ADASTRIDE_CALLER_DIR=${PWD}
. "$(dirname "${BASH_SOURCE[0]}")/../python.sh"
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

corpus=${RECORDINGS:-}
if [ -n "${corpus}" ] && [ "${corpus:0:1}" != / ]; then corpus=${ADASTRIDE_CALLER_DIR}/${corpus}; fi

exec "${python}" -W ignore -m espnet_adastride.bin.compare_vqvae \
    --config ../../conf/train_vqvae.yaml \
    --exp exp \
    --nj "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" \
    ${corpus:+--corpus "${corpus}"} \
    "$@"
