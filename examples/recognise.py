"""Recognise recordings in Python, with ESPnet's own Speech2Text.

    python examples/recognise.py EXP FILE...

EXP holds config.yaml and valid.acc.ave.pth from a training. Run the script in the
folder of the training, because paths in config.yaml are relative to it.
"""

import sys

from espnet2.bin.asr_inference import Speech2Text

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import one_line_errors
from espnet_adastride.options import parse_rate


def main(exp, *files):
    recognise = Speech2Text(
        asr_train_config=f"{exp}/config.yaml",
        asr_model_file=f"{exp}/valid.acc.ave.pth",
        beam_size=5,
        ctc_weight=0.3,
    )
    frontend = recognise.asr_train_args.frontend_conf or {}
    rate = parse_rate(str(frontend.get("fs", "16k")))
    for file in files:
        wave = read_audio(file, rate)  # any format; one channel at the model's rate
        text, tokens, ids, hypothesis = recognise(wave)[0]
        print(f"{file}: {text}")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    one_line_errors(lambda words: main(*words))(sys.argv[1:])
