"""Recognise recordings in Python, with ESPnet's own Speech2Text.

    python examples/recognise.py EXP FILE...

EXP holds config.yaml and valid.acc.ave.pth from a training. Run the script in the
folder of the training, because paths in config.yaml are relative to it.
"""

import sys

import soundfile
from espnet2.bin.asr_inference import Speech2Text

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)


def main(exp, *files):
    recognise = Speech2Text(
        asr_train_config=f"{exp}/config.yaml",
        asr_model_file=f"{exp}/valid.acc.ave.pth",
        beam_size=5,
        ctc_weight=0.3,
    )
    for file in files:
        wave, _ = soundfile.read(file, dtype="float32")  # at the model's sampling rate
        text, tokens, ids, hypothesis = recognise(wave)[0]
        print(f"{file}: {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
