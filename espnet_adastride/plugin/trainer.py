"""The plugin's trainer: pictures of strides, and errors where nothing is learned.

ESPnet's tasks name their trainer in a class attribute (``ASRTask.trainer``). After
every epoch its ``plot_attention`` gets the model, a few validation utterances
(``num_att_plot``, 3 by default), the output folder and TensorBoard's writer. The
plugin's trainer adds its pictures there: ``att_ws/UTTERANCE/strides.Nep.png``, and
``strides_UTTERANCE`` in TensorBoard. It leaves out pictures of attention with
``use_sdpa``: there are no weights to draw, and ESPnet 202611 would fail. There are no
pictures where ESPnet draws no attention: with ``num_att_plot: 0``, ``use_matplotlib:
false`` or DeepSpeed (which has its own trainer).

A training whose losses are not numbers is stopped (``finite.py``). If no step of an
epoch could update the model, ESPnet ends the training with a warning, as if it were
finished; here it is an error, before the epoch is saved.

ESPnet 202611 can resume trainings of 202511: their checkpoints hold numpy's numbers and
time spans, which 202611 otherwise rejects as possible code.
"""

import _codecs
import datetime
import logging
import textwrap
from pathlib import Path

import numpy as np
import torch

from espnet_adastride.errors import ConfigurationError, ModelError
from espnet_adastride.networks import saving
from espnet_adastride.plugin.espnet import Trainer
from espnet_adastride.plugin.finite import watched_losses
from espnet_adastride.plugin.frame_times import frame_times
from espnet_adastride.plugin.frontends import model_frames, why_unknown
from espnet_adastride.plugin.greedy import main_frames
from espnet_adastride.plugin.model import input_layer
from espnet_adastride.plugin.subsampling import fit_names

#: types that a reporter of ESPnet 202511 keeps in addition to numbers; all are data
REPORTED = [
    datetime.timedelta,
    _codecs.encode,  # bytes, in old pickles
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # before numpy 2
]

#: ESPnet's, for frontends of unknown rate
DEFAULT_RATE = 16000


class FiniteTrainer(Trainer):
    """ESPnet's trainer; it stops where losses are not numbers."""

    @classmethod
    def train_one_epoch(cls, model, iterator, *args, **kwargs):
        """Train as ESPnet does; stop where losses are not finite, naming the batch."""
        with watched_losses(model, iterator, "training") as batches:
            result = super().train_one_epoch(model, batches, *args, **kwargs)
        if result:  # ESPnet would end with a warning, as if it were finished
            epoch, steps = kwargs["reporter"].get_epoch(), kwargs["options"].accum_grad
            raise ModelError(describe_no_update(epoch, batches.count, steps))
        return result

    @classmethod
    def validate_one_epoch(cls, model, iterator, *args, **kwargs):
        """Validate as ESPnet does; stop if a loss is not finite, naming the batch."""
        with watched_losses(model, iterator, "validation") as batches:
            return super().validate_one_epoch(model, batches, *args, **kwargs)


class StrideTrainer(FiniteTrainer):
    """ESPnet's trainer, which draws strides where it draws attention."""

    @classmethod
    def run(cls, model, *, distributed_option, **kwargs):
        """Train as ESPnet does, on one GPU or with a process for each."""
        check_gpus(model, distributed_option)
        super().run(model=model, distributed_option=distributed_option, **kwargs)

    @staticmethod
    def resume(checkpoint, model, **kwargs):
        """Resume as ESPnet does, from a checkpoint of either release.

        Raises:
            ModelError: the checkpoint is that of a model with other parameters.
        """
        try:
            with torch.serialization.safe_globals(REPORTED):
                Trainer.resume(checkpoint, model, **kwargs)
        except RuntimeError as error:
            if "loading state_dict for" not in str(error):
                raise
            first = " ".join(str(error).split("\n\t")[1:2])
            raise ModelError(
                f"{checkpoint} does not fit the configured model: a training with "
                "another configuration has begun in this folder; go back to that one, "
                "or give another --output_dir (asr.sh: --asr_tag). "
                f"{textwrap.shorten(first, 200, placeholder=' ...')}"
            ) from None
        fit_epochs(Path(checkpoint).parent, model)

    @classmethod
    def plot_attention(
        cls, model, output_dir, summary_writer, iterator, reporter, options
    ):
        """Draw attention as ESPnet does, then the strides of the same utterances."""
        batches = list(iterator)  # num_att_plot utterances, which ESPnet caches anyway
        if any(getattr(part, "use_sdpa", False) for part in model.modules()):
            logging.warning(
                "no pictures of attention: with use_sdpa there are no weights to draw"
            )
        else:
            super().plot_attention(
                model, output_dir, summary_writer, iter(batches), reporter, options
            )
        layer = input_layer(model)
        positions = layer is not None and layer.has_positions()
        if options.no_forward_run or not positions or model.frontend is None:
            return
        reason = why_unknown(model)
        if reason is not None:
            logging.warning("no pictures of strides: %s", reason)
            return
        for ids, batch in batches:
            for index, key in enumerate(ids):
                try:
                    picture = draw(model, key, batch, index)
                except Exception as error:  # no picture is worth a training
                    logging.warning(f"no picture of the strides of {key}: {error!r}")
                    continue
                if picture is None:
                    continue
                epoch = reporter.get_epoch()
                if output_dir is not None:
                    from espnet_adastride.report.style import save_figure

                    folder = output_dir / key
                    folder.mkdir(parents=True, exist_ok=True)
                    save_figure(picture, folder / f"strides.{epoch}ep.png", dpi=100)
                if summary_writer is not None:
                    summary_writer.add_figure(f"strides_{key}", picture, epoch)


def check_gpus(model, option) -> None:
    """Reject copies of a model in one process where the plugin's parts would be shared.

    Args:
        model: to be trained.
        option: ESPnet's DistributedOption: without ``distributed``, ``ngpu`` above 1
            means ``torch.nn.DataParallel``.

    Raises:
        ConfigurationError: naming the option of the input layer.
    """
    layer = input_layer(model)
    if option.distributed or option.ngpu <= 1 or layer is None:
        return
    varied = layer.blocks is not None and layer.blocks.train is not None
    for word, used in (("after_blocks", layer.later), ("train_blocks", varied)):
        if used:
            raise ConfigurationError(
                f"--ngpu {option.ngpu}: input_layer_conf: {word} cannot be trained on "
                "several GPUs by one process: add --multiprocessing_distributed true, "
                "which starts a process for each GPU"
            )


def describe_no_update(epoch: int, batches: int, accum_grad: int) -> str:
    """Return one line on an epoch without an update of the model."""
    if batches < accum_grad:
        return (
            f"epoch {epoch} had {batches} batches and accum_grad is {accum_grad}: not "
            f"one update, nothing is learned; set accum_grad to at most {batches}, or "
            "make smaller batches"
        )
    return (
        f"epoch {epoch}: the gradients of all {batches} batches were infinite or not a "
        "number, nothing is learned. Look in train.log for the first loss that is nan "
        "or inf: in the first epoch, a recording or the statistics have such values "
        "(run stages 3 and 10 again); later, the learning rate is too high (optim_conf:"
        " lr), and the models of earlier epochs are still there"
    )


def fit_epochs(folder, model) -> None:
    """Rename the parameters of earlier epochs' models as in this release of ESPnet.

    At the end ESPnet averages the best epochs' models, name by name. Models of another
    release would not fit.

    Args:
        folder: with ``1epoch.pth`` ...; rewritten where names differ.
        model: that is trained.
    """
    own = model.state_dict()
    for path in folder.glob("*epoch.pth"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if fit_names(state, "encoder.embed.", own):
            saving.save(state, path)


@torch.no_grad()
def draw(model, key, batch, index):
    """Return the figure of one utterance of a batch with the current model.

    Args:
        model: in evaluation mode.
        key: its id.
        batch: of ESPnet's collate function: ``speech`` (B, samples) and lengths.
        index: of the utterance.

    Returns:
        The figure; None for several channels.

    Raises:
        UnknownTimesError: if the times of the frames are not known.
    """
    from espnet_adastride.report.utterance import StridePicture, plot_strides

    length = int(batch["speech_lengths"][index])
    speech = batch["speech"][index : index + 1, :length]
    if speech.dim() != 2:  # several channels
        return None
    device = next(model.parameters()).device
    frames, lengths = model.encode(
        speech.to(device), torch.tensor([length], device=device)
    )[:2]
    layer = input_layer(model)
    trace = layer.take_trace()
    known = model_frames(model)
    rate = known.rate or DEFAULT_RATE
    count = min(main_frames(frames).size(1), int(lengths[0]))
    times = frame_times(model, trace, length, rate, count).of_strides()
    return plot_strides(
        StridePicture(
            utterance=key,
            wave=speech[0].float().cpu().numpy(),
            rate=rate,
            step=known.rule.hop / rate,
            boundaries=times.boundaries,
            uniform=times.windows,
            method=layer.describe(),
        )
    )
