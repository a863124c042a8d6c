#!/usr/bin/env bash
# Spoken digits (Free Spoken Digit Dataset): classify digits of unseen speakers.
#
#   FSDD=/path/to/free-spoken-digit-dataset ./run.sh [--option value]...
#   ./run.sh --download true                                   (20 MB from its publisher)
#   ./run.sh --methods "strided_conv adastride" --nj 2
#   ./run.sh --train false                                     (table of the finished runs)
#   ./run.sh --help
#
# Six speakers, each tested in turn: seeds 0 to 5 are one cross-validation (round 0),
# 6 to 11 the next. Everything else is as in ../speech_commands/run.sh; sequences of
# digits, as speech recognition, are ../digits.
#
#   exp/fsdd/RESULTS.md                 accuracy, intervals, paired tests
#   exp/fsdd/confusion_METHOD.png       --confusion METHOD
set -euo pipefail
unset CDPATH
caller=${PWD}
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../classify.sh fsdd "${FSDD:-}" "${caller}" "$(seq -s ' ' 0 17)" "$@"
