#!/usr/bin/env bash
# ESC-10, environmental sounds: ten classes of 40 clips of 5 s, in its own five folds.
#
#   ESC10=/path/to/ESC-10 ./run.sh [--option value]...         (or /path/to/ESC-50)
#   ./run.sh --download true                                   (ESC-50, 600 MB)
#   ./run.sh --methods "strided_conv adastride" --nj 2
#   ./run.sh --train false                                     (table of the finished runs)
#   ./run.sh --help
#
# Each fold is tested in turn, the next one validates, three train: seeds 0 to 4 are one
# cross-validation (round 0), 5 to 9 the next. Everything else is as in
# ../speech_commands/run.sh.
#
#   exp/esc10/RESULTS.md                accuracy, intervals, paired tests
#   exp/esc10/confusion_METHOD.png      --confusion METHOD
set -euo pipefail
unset CDPATH
caller=${PWD}
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../classify.sh esc10 "${ESC10:-}" "${caller}" "$(seq -s ' ' 0 14)" "$@"
