"""Train through ESPnet-EZ: import the plugin and set ``input_layer``.

    python examples/espnetez_train.py DATA TOKENS EXP [OPTION=VALUE]...

DATA/{train,valid} hold wav.scp and text, TOKENS is a token list of words.
"""

import sys
from pathlib import Path

import espnetez
import yaml

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)


def main(data, tokens, exp, *options):
    config = espnetez.config.from_yaml("asr", Path(__file__).parent / "asr.yaml")
    config.update(token_list=tokens, token_type="word", num_workers=0)
    config.update(
        {k: yaml.safe_load(v) for k, _, v in (o.partition("=") for o in options)}
    )
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
    main(*sys.argv[1:])
