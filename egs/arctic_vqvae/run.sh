#!/usr/bin/env bash
# Discrete representations: a VQ-VAE of speech with every downsampling method, from any
# folder of recordings.
#
#   RECORDINGS=/path/to/folder ./run.sh [--option value]...
#
#   ./run.sh --methods "strided_conv adastride_f" --rates 8 --seeds 0
#   ./run.sh --methods "strided_conv+strided_conv+adastride_f" --rates 8   (a stage each)
#   ./run.sh --train false                               (the table of what is there)
#   ./run.sh --help
#
# The folder may hold anything that libsndfile reads, at any depth; a file trans.txt in
# it (NAME TEXT lines) makes the split one by text: made for one reader's recordings of
# the CMU ARCTIC prompts. Data, statistics, training, reconstruction, table, page.
# Finished runs are kept and interrupted ones go on when the same command is given again;
# other hyper-parameters (../../conf/train_vqvae.yaml, their only home) want another --exp.
#
#   exp/RESULTS.md      error, codebook perplexity, bits a second, paired tests
#   exp/listen.html     recordings and reconstructions, one file
set -euo pipefail
caller=${PWD}
. "$(dirname "${BASH_SOURCE[0]}")/../python.sh"
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

corpus=${RECORDINGS:-}
if [ -n "${corpus}" ] && [ "${corpus:0:1}" != / ]; then corpus=${caller}/${corpus}; fi

exec "${python}" -W ignore -m espnet_adastride.bin.compare_vqvae \
    --config ../../conf/train_vqvae.yaml \
    --exp exp \
    --nj "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" \
    ${corpus:+--corpus "${corpus}"} \
    "$@"
