"""The VQ-VAE of ``networks/vqvae.py`` as a task of ESPnet's trainer.

Data: ``speech`` alone (type ``sound``). Stats: ``loss_mse`` (the reconstruction, in
normalised units), ``loss_commit``, ``perplexity`` and ``codes`` (of the batch),
``loss_vp``, ``empty_slots``, ``largest_jump`` if there are positions, ``loss_aux`` and
the methods' own stats.

    python -m espnet_adastride.bin.vqvae_train --config conf/train_vqvae.yaml ...
"""

import argparse
from pathlib import Path
from typing import Tuple

import numpy as np
import torch

from espnet_adastride.config import read_config
from espnet_adastride.downsampling.stages import (
    add_auxiliary_losses,
    auxiliary_losses,
    position_stats,
)
from espnet_adastride.errors import ConfigurationError, ModelError, unknown_word
from espnet_adastride.evaluation.vqvae import perplexity
from espnet_adastride.networks.log_mel import LogMel
from espnet_adastride.networks.vqvae import VQVAE, network_words
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.defaults import (
    arguments_with_defaults,
    completed_network_conf,
)
from espnet_adastride.plugin.model_files import read_parameters
from espnet_adastride.plugin.trainer import FiniteTrainer


class VQVAEModel(espnet.AbsESPnetModel):
    """Log-mel frames, :class:`VQVAE`, and its losses.

    Args:
        features: wave to frames.
        network: frames to tokens and back.
        vp_weight: of the positioning losses.
    """

    def __init__(self, features: LogMel, network: VQVAE, vp_weight: float):
        super().__init__()
        self.features, self.network, self.vp_weight = features, network, vp_weight

    def collect_feats(self, speech, speech_lengths, **kwargs):
        """Return ``feats`` (B, T, F) and their lengths, for the statistics."""
        frames, lengths = self.features(speech, speech_lengths)
        return {"feats": frames, "feats_lengths": lengths}

    def forward(self, speech, speech_lengths, **kwargs):
        """Return loss, stats, weight (valid frames).

        Args:
            speech: (B, N) samples.
            speech_lengths: (B,).
        """
        frames, lengths = self.features(speech, speech_lengths)
        mse, encoded = self.network.losses(frames, lengths)
        losses = auxiliary_losses(encoded.traces)
        loss = add_auxiliary_losses(mse + encoded.commitment, losses, self.vp_weight)
        size = self.network.codebook_size
        stats = {
            "loss_mse": mse.detach(),
            "loss_commit": encoded.commitment.detach(),
            "perplexity": perplexity(encoded.tokens, size),
            "codes": float(len(encoded.tokens[encoded.tokens >= 0].unique())),
            **{name: value.detach() for name, value in losses.items()},
            **position_stats(encoded.traces),
            **self.network.encoder.reported_stats(),
            "loss": loss.detach(),
        }
        return espnet.force_gatherable((loss, stats, lengths.sum()), loss.device)


class VQVAETask(espnet.AbsTask):
    """``--features_conf``, ``--network_conf``, ``--stats_file``, ``--vp_weight``."""

    num_optimizers = 1
    class_choices_list = []
    trainer = FiniteTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        """Add the task's own options."""
        group = parser.add_argument_group(description="Task related")
        for name, what in (
            ("features_conf", "fs, n_fft, win_length, hop_length, n_mels"),
            ("network_conf", ", ".join(network_words())),
        ):
            group.add_argument(
                f"--{name}", action=espnet.NestedDictAction, default={}, help=what
            )
        group.add_argument(
            "--vp_weight",
            type=float,
            default=1.0,
            help="weight of the positioning loss",
        )
        group.add_argument(
            "--stats_file", help="feats_stats.npz of the training set (collect_stats)"
        )
        return parser

    @classmethod
    def build_collate_fn(cls, args, train):
        """Pad with silence."""
        return espnet.CommonCollateFn(float_pad_value=0.0, int_pad_value=0)

    @classmethod
    def build_preprocess_fn(cls, args, train):
        """Return None: samples need no preprocessing."""
        return None

    @classmethod
    def required_data_names(cls, train=True, inference=False) -> Tuple[str, ...]:
        """Return the names of the data that a training needs."""
        return ("speech",)

    @classmethod
    def optional_data_names(cls, train=True, inference=False) -> Tuple[str, ...]:
        """Return (): there are none."""
        return ()

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> VQVAEModel:
        """Build the model; complete ``args`` with the defaults used.

        Raises:
            ConfigurationError: naming the wrong word and the choices.
        """
        for word in args.network_conf:
            if word not in network_words():
                raise ConfigurationError(
                    unknown_word("word of network_conf", word, network_words())
                )
        try:
            features = LogMel(**args.features_conf)
            network = VQVAE(features.n_mels, **args.network_conf)
        except (TypeError, ValueError, AssertionError) as error:
            line = " ".join(str(error).split())
            raise ConfigurationError(f"network_conf, features_conf: {line}") from None
        if args.stats_file:
            network.set_statistics(*read_statistics(args.stats_file, features.n_mels))
        args.features_conf = {**arguments_with_defaults(LogMel), **args.features_conf}
        args.network_conf = completed_network_conf(network, args.network_conf)
        return VQVAEModel(features, network, args.vp_weight)


def read_statistics(path, size: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (size,) from the statistics of collect_stats.

    Raises:
        ConfigurationError: the file is missing or of other features.
    """
    try:
        with np.load(path) as stats:
            count, total, squares = (
                stats[k].astype(np.float64) for k in ("count", "sum", "sum_square")
            )
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"--stats_file {path}: cannot be read ({reason}); run collect_stats first"
        ) from None
    if total.shape != (size,):
        raise ConfigurationError(
            f"--stats_file {path}: of {total.shape[-1]} mel bins, features_conf asks "
            f"for {size}; collect the statistics again"
        )
    if not (np.isfinite(total).all() and np.isfinite(squares).all() and count > 0):
        raise ConfigurationError(
            f"--stats_file {path}: not numbers (NaN, infinite): a recording holds such "
            "samples; take it out and collect the statistics again"
        )
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def load_vqvae(folder, model_file=None) -> VQVAEModel:
    """Return a trained model, ready for evaluation.

    Args:
        folder: of the training: config.yaml and parameters.
        model_file: parameters; None: of the epoch with the best validation.

    Raises:
        UserError: it is missing or does not fit; names the file and the fix.
    """
    config = Path(folder) / "config.yaml"
    path = Path(model_file or Path(folder) / "valid.loss_mse.best.pth")
    for needed in (config, path):
        if not needed.is_file():
            raise ModelError(
                f"{needed}: missing; give the folder of a finished VQ-VAE training"
            )
    args = argparse.Namespace(**read_config(config))
    if not hasattr(args, "network_conf"):
        raise ModelError(
            f"{config}: not the config of a VQ-VAE; give a folder of vqvae_train"
        )
    args.stats_file = None  # the statistics are among the parameters
    model = VQVAETask.build_model(args)
    parameters = read_parameters(path)
    try:
        model.load_state_dict(parameters)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: does not fit {config}: {reason}") from None
    return model.eval()
