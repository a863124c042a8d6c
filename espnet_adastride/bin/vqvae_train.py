#!/usr/bin/env python3
"""Train a VQ-VAE by ESPnet's trainer; ``--collect_stats true`` first, for stats_file.

    python -m espnet_adastride.bin.vqvae_train --config conf/train_vqvae.yaml \
        --train_data_path_and_name_and_type data/train/wav.scp,speech,sound \
        --valid_data_path_and_name_and_type data/valid/wav.scp,speech,sound \
        --train_shape_file stats/train/speech_shape \
        --valid_shape_file stats/valid/speech_shape \
        --stats_file stats/train/feats_stats.npz --output_dir exp/vqvae

All options of ESPnet's trainer; ``bin/compare_vqvae.py`` does all steps.
"""

import sys

from espnet_adastride import atomic_save
from espnet_adastride.plugin.errors import PluginError
from espnet_adastride.plugin.vqvae_task import VQVAETask

# at the top, because children of mp.spawn import this module and nothing else
atomic_save.install()


def get_parser():
    """Return ESPnet's parser with the task's options."""
    return VQVAETask.get_parser()


def main(cmd=None):
    """Train; print a user's mistake as one line and exit with 1."""
    try:
        VQVAETask.main(cmd=cmd)
    except PluginError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
