#!/usr/bin/env bash
# Speech Commands: which word is spoken, with every downsampling method side by side.
#
#   SPEECH_COMMANDS=/path/to/speech_commands ./run.sh [--option value]...
#
#   ./run.sh --download true                                    (2.3 GB, all 35 words)
#   ./run.sh --methods "strided_conv avg_pool adastride" --seeds "0 1 2" --nj 2
#   ./run.sh --methods "adastride:sigma_square=0.5 adastride:sigma_square=50" \
#       --curve sigma_square                     (and a picture of what the option does)
#   ./run.sh --methods "strided_conv+strided_conv+adastride"    (a method for each stride)
#   ./run.sh --espnet true --ngpu 1     (the paper's network, through ESPnet's task cls)
#   ./run.sh --train false                                      (the table of what is there)
#   ./run.sh --help
#
# The corpus is a folder of WORD/HASH_nohash_N.wav, all of it or a part. A pre-activation
# residual network makes its three strides of 2 by the method; one run is a method and a
# seed, about a minute on one core. Without options: all methods, seeds 0 1 2, a run at a
# time on every core. Finished runs are kept and interrupted ones go on when the same
# command is given again; other hyper-parameters (../../conf/train_speech_commands.yaml,
# their only home) want another --exp.
#
#   exp/speech_commands/RESULTS.md                    accuracy, intervals, paired tests
#   exp/speech_commands/confusion_METHOD.png          --confusion METHOD
#   exp/speech_commands/METHOD_seedN/result.json      one run: every test clip's answer
#   exp/speech_commands_espnet/                       the same, with --espnet true
set -euo pipefail
caller=${PWD}
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../classify.sh speech_commands "${SPEECH_COMMANDS:-}" "${caller}" "0 1 2" "$@"
