#!/usr/bin/env bash
# Speech Commands: keyword classification with every downsampling method.
#
#   SPEECH_COMMANDS=/path/to/speech_commands ./run.sh [--option value]...
#
#   ./run.sh --download true                                    (2.3 GB, all 35 words)
#   ./run.sh --methods "strided_conv avg_pool adastride" --seeds "0 1 2" --nj 2
#   ./run.sh --methods "adastride:sigma_square=0.5 adastride:sigma_square=50" \
#       --curve sigma_square                     (and a picture of the option's effect)
#   ./run.sh --methods "strided_conv+strided_conv+adastride"    (a method for each stride)
#   ./run.sh --espnet true --ngpu 1     (the paper's network, through ESPnet's task cls)
#   ./run.sh --train false                                      (table of the finished runs)
#   ./run.sh --help
#
# The corpus is a folder of WORD/HASH_nohash_N.wav, complete or in part. A pre-activation
# residual network downsamples three times by 2 with the method; a run is a method and a
# seed, and takes about a minute on one core. By default: all methods, seeds 0 1 2, one run
# per core. Finished runs are kept, and the same command resumes interrupted ones; use
# another --exp for other hyper-parameters (they are all in
# ../../conf/train_speech_commands.yaml).
#
#   exp/speech_commands/RESULTS.md                    accuracy, intervals, paired tests
#   exp/speech_commands/confusion_METHOD.png          --confusion METHOD
#   exp/speech_commands/records/METHOD_seedN.json.gz  one run: every test clip's answer
#   exp/speech_commands_espnet/                       the same, with --espnet true
set -euo pipefail
unset CDPATH
caller=${PWD}
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../classify.sh speech_commands "${SPEECH_COMMANDS:-}" "${caller}" "0 1 2" "$@"
