"""Train through ESPnet-EZ: import the plugin and set ``input_layer``.

    python examples/espnetez_train.py DATA TOKENS EXP [OPTION=VALUE]...

DATA/{train,valid} hold wav.scp and text, TOKENS is a token list of words. An option is
one of espnet2.bin.asr_train, such as max_epoch=10. ESPnet 202511 has ESPnet-EZ.
"""

import sys
from pathlib import Path

import yaml

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
from espnet_adastride.errors import UserError, did_you_mean, one_line_errors

try:
    import espnetez
except ImportError:
    espnetez = None


def main(data, tokens, exp, *options):
    if espnetez is None:
        raise UserError(
            "espnetez is not installed: ESPnet 202511 has it, 202611 has ESPnet3 "
            "instead (examples/espnet3)"
        )
    config = espnetez.config.from_yaml("asr", Path(__file__).parent / "asr.yaml")
    config.update(token_list=tokens, token_type="word", num_workers=0)
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"{option}: write OPTION=VALUE, e.g. max_epoch=10")
        if key not in config:  # ESPnet-EZ would ignore it
            raise UserError(f"{key}: no option of asr_train{did_you_mean(key, config)}")
        config[key] = yaml.safe_load(value)
    trainer = espnetez.Trainer(
        task="asr",
        train_config=config,
        output_dir=f"{exp}/model",
        stats_dir=f"{exp}/stats",
        data_info={"speech": ["wav.scp", "sound"], "text": ["text", "text"]},
        train_dump_dir=f"{data}/train",
        valid_dump_dir=f"{data}/valid",
        ngpu=int(config.get("ngpu", 0)),
    )
    trainer.collect_stats()
    trainer.train()


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    one_line_errors(lambda words: main(*words))(sys.argv[1:])
