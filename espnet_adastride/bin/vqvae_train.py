"""Train a VQ-VAE with ESPnet's trainer; run ``--collect_stats true`` first.

    python -m espnet_adastride.bin.vqvae_train --config conf/train_vqvae.yaml \
        --train_data_path_and_name_and_type data/train/wav.scp,speech,sound \
        --valid_data_path_and_name_and_type data/valid/wav.scp,speech,sound \
        --train_shape_file stats/train/speech_shape \
        --valid_shape_file stats/valid/speech_shape \
        --stats_file stats/train/feats_stats.npz --output_dir exp/vqvae

It takes all options of ESPnet's trainer; ``bin/compare_vqvae.py`` does all steps.
"""

import importlib.util
import sys

from espnet_adastride.errors import one_line_errors
from espnet_adastride.extras import describe_missing
from espnet_adastride.networks import saving
from espnet_adastride.version import __version__

# at module level, because children of mp.spawn only import this module
saving.install()


def get_parser():
    """Return ESPnet's parser with the options of the task."""
    from espnet_adastride.plugin.vqvae_task import VQVAETask

    return VQVAETask.get_parser()


@one_line_errors
def main(cmd=None):
    """Train; print a user's mistake as one line and exit with 1."""
    words = sys.argv[1:] if cmd is None else cmd
    if "--version" in words:
        print(f"espnet_adastride {__version__}")
        return
    if {"-h", "--help"} & set(words) and importlib.util.find_spec("espnet2") is None:
        print(f"{__doc__.strip()}\n\nThe options are ESPnet's:")
        print(describe_missing("espnet2"))
        return
    from espnet_adastride.plugin.vqvae_task import VQVAETask

    VQVAETask.main(cmd=cmd)


if __name__ == "__main__":
    main()
