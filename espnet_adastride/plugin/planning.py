"""Ask ESPnet for the lengths and batches of a training, without training.

``training_cost.py`` measures time and memory of a step, ``evaluation/plan.py`` draws
conclusions, ``bin/plan_training.py`` is the command ``adastride plan``.

Lengths after the frontend come from its windows and convolutions (``frontends.py``);
those after the input layer from the model's own code: ESPnet's input layers run on the
meta device, where tensors have shapes and no content. Batches come from ESPnet's
sampler, with the options of its trainer.

A model without a frontend reads extracted features: a "sample" then is a frame of them,
and ``upstream.yaml`` beside ``feats.scp`` says how many there are in a second.
"""

import copy
import inspect
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import torch

from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.corpora.upstream_record import RECORD_NAME, read_record
from espnet_adastride.errors import ModelError, NotPlanned, UserError
from espnet_adastride.evaluation.plan import SetLengths
from espnet_adastride.files import PathLike
from espnet_adastride.options import parse_rate
from espnet_adastride.plugin.espnet import (
    asr_task,
    build_batch_sampler,
    check_short_utt,
)
from espnet_adastride.plugin.frontends import FrontendFrames, model_frames
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.timing.ctc import needed_frames

Shapes = Dict[str, Tuple[int, ...]]


def read_shapes(path: PathLike) -> Shapes:
    """Read a shape file: {utterance: (length, dimension, ...)}."""
    try:
        return {
            key: tuple(int(n) for n in value.split(","))
            for key, value in read_table(path).items()
        }
    except ValueError:
        raise UserError(
            f"{path}: lines must be 'utterance length[,dimension]', as the statistics "
            "(stage 10) write them"
        ) from None


# ---------------------------------------------------------------- lengths
class ModelLengths:
    """The lengths that a model gives a batch, by its own code.

    Args:
        model: an ESPnetASRModel.
        input_size: values of a frame of extracted features; None: the model has a
            frontend.

    Raises:
        NotPlanned: for encoders whose lengths only a forward pass gives.
        UnknownTimesError: the same, for frontends and preencoders.
    """

    def __init__(self, model: torch.nn.Module, input_size: Optional[int] = None):
        embed = getattr(model.encoder, "embed", None)
        #: rules of the frontend's frames; None: there is no frontend
        self.frontend = model_frames(model)
        if embed is None:
            raise NotPlanned(f"encoder {type(model.encoder).__name__}")
        #: features that the longest utterance of a batch needs, 0: any number
        self.limit = max(0, check_short_utt(embed, 0)[1])
        last = model.frontend if model.preencoder is None else model.preencoder
        self.mels = input_size if last is None else last.output_size()
        self.exact = embed if isinstance(embed, AdaptiveSubsampling) else None
        if self.exact is not None and self.exact.lengths_from_content():
            raise NotPlanned("hnet with exact: false")
        self.masked = None
        parameters = inspect.signature(embed.forward).parameters
        if self.exact is None and "x_mask" in parameters:
            self.masked = copy.deepcopy(embed).to("meta")
            for name in ("out", "pos_enc"):  # positions are not needed
                if hasattr(self.masked, name):
                    setattr(self.masked, name, torch.nn.Identity())

    def features(self, samples: Sequence[int]) -> List[int]:
        """Return the frames of a batch before the input layer."""
        if self.frontend is None:
            return list(samples)
        return [self.frontend.length(n) for n in samples]

    def frames(self, features: Sequence[int]) -> List[int]:
        """Return the frames of a batch after the input layer."""
        if self.exact is not None:
            return self.exact.output_lengths(torch.tensor(features)).tolist()
        if self.masked is None:
            return list(features)
        longest = max(*features, self.limit)
        x = torch.empty(len(features), longest, self.mels, device="meta")
        mask = torch.arange(longest) < torch.tensor(features).unsqueeze(1)
        return self.masked(x, mask.unsqueeze(1))[1].sum(dim=(1, 2)).tolist()

    def fewest_frames(self, features: Sequence[int]) -> Optional[List[int]]:
        """Return them at the highest of ``train_strides``; None: there is one rate."""
        if self.exact is None or self.exact.train_strides is None:
            return None
        layer = copy.deepcopy(self.exact)
        layer.set_stride(layer.train_strides[1])
        return layer.output_lengths(torch.tensor(features)).tolist()


# ---------------------------------------------------------------- text and batches
class Texts:
    """The token ids of a set's text, by ESPnet's own preprocessor.

    Args:
        args: the options of a training.
        data: ``{train,valid}_data_path_and_name_and_type``.
    """

    def __init__(self, args, data: Iterable[Tuple[str, str, str]]):
        paths = [path for path, name, _ in data if name == "text"]
        if not paths:
            raise UserError("no data with the name 'text': give PATH,text,text")
        self.texts = read_table(paths[0])
        self.process = asr_task.ASRTask.build_preprocess_fn(args, False)
        self._ids: Dict[str, List[int]] = {}

    def ids(self, key: str) -> List[int]:
        """Return an utterance's token ids."""
        text = self.texts.get(key)
        if text is None:
            raise UserError(f"{key} has a shape, but no text: run stage 10 again")
        if text not in self._ids:  # speed-perturbed copies share it
            if self.process is None:
                self._ids[text] = [int(word) for word in text.split()]
            else:
                self._ids[text] = list(self.process(key, {"text": text})["text"])
        return self._ids[text]


def batch_options(args, mode: str) -> Tuple[str, int, int]:
    """Return batch_type, batch_size and batch_bins of ``train`` or ``valid``."""
    options = args.batch_type, args.batch_size, args.batch_bins
    if mode == "train":
        return options
    own = args.valid_batch_type, args.valid_batch_size, args.valid_batch_bins
    return tuple(b if a is None else a for a, b in zip(own, options))


def espnet_batches(args, mode: str, processes: int) -> List[Tuple[str, ...]]:
    """Return the batches that ESPnet's trainer makes.

    Args:
        args: the options of a training.
        mode: ``train`` or ``valid``.
        processes: that share each batch.

    Raises:
        UserError: ESPnet's sampler fails; its message, with the options.
    """
    kind, size, bins = batch_options(args, mode)
    try:
        sampler = build_batch_sampler(
            type=kind,
            batch_size=size,
            batch_bins=bins,
            shape_files=getattr(args, f"{mode}_shape_file"),
            fold_lengths=args.fold_length,
            sort_in_batch=args.sort_in_batch,
            sort_batch=args.sort_batch,
            drop_last=args.drop_last_iter,
            min_batch_size=processes if processes > 1 else args.min_batch_size,
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"batch_type {kind}, batch_size {size}, batch_bins {bins}: no batches of "
            f"the {mode} set: {' '.join(str(error).split())}"
        ) from None
    batches = list(sampler)
    small = min(batches, key=len)
    if len(small) < processes:
        raise UserError(
            f"a batch of the {mode} set holds {len(small)} utterances and {processes} "
            "processes share it: use fewer processes (--ngpu, --cpu_processes) or "
            "larger batches"
        )
    return batches


def fastest_perturbation(effects) -> float:
    """Return the largest speed factor in ``preprocessor_conf: data_aug_effects``."""
    if isinstance(effects, dict):
        return 1.0
    fastest = 1.0
    if isinstance(effects, (list, tuple)):
        if len(effects) == 3 and effects[1] == "speed_perturb":
            factors = effects[2].get("factor", 1.0)
            many = isinstance(factors, (list, tuple))
            return max(factors) if many else float(factors)
        fastest = max([1.0, *map(fastest_perturbation, effects)])
    return fastest


def set_lengths(
    args,
    mode: str,
    model_lengths: ModelLengths,
    processes: int = 1,
    with_ctc: bool = True,
) -> SetLengths:
    """Return the lengths of the training or the validation set, batch by batch.

    Args:
        args: the options of a training.
        mode: ``train`` or ``valid``.
        model_lengths: of the model.
        processes: that share each batch.
        with_ctc: the model has a CTC branch.
    """
    samples = {
        key: shape[0]
        for key, shape in read_shapes(getattr(args, f"{mode}_shape_file")[0]).items()
    }
    batches = espnet_batches(args, mode, processes)
    speed = 1.0
    if mode == "train":
        conf = args.preprocessor_conf or {}
        speed = fastest_perturbation(conf.get("data_aug_effects"))
    features, frames, fastest = {}, {}, {}
    for batch in batches:
        for rank in range(processes):
            keys = batch[rank::processes]
            before = model_lengths.features([samples[k] for k in keys])
            features.update(zip(keys, before))
            frames.update(zip(keys, model_lengths.frames(before)))
            if speed > 1:
                before = [int(samples[k] / speed) for k in keys]
                before = model_lengths.features(before)
                fastest.update(zip(keys, model_lengths.frames(before)))
    fewest = model_lengths.fewest_frames([*features.values()])
    needed = {}
    if with_ctc:
        texts = Texts(args, getattr(args, f"{mode}_data_path_and_name_and_type"))
        needed = {k: needed_frames(texts.ids(k)) for k in features}
    return SetLengths(
        name={"train": "training", "valid": "validation"}[mode],
        batches=batches,
        samples={k: samples[k] for k in features},  # drop_last_iter leaves some out
        rate=sampling_rate(args),
        features=features,
        frames=frames,
        needed=needed,
        fastest=fastest or None,
        fewest=dict(zip(features, fewest)) if fewest and mode == "train" else None,
        stride_words=(
            "a stride of the input layer's own stages"
            if model_lengths.exact is not None and model_lengths.exact.later.restore
            else "a stride"
        ),
    )


def describe_frames(args, frontend: Optional[FrontendFrames]) -> str:
    """Return one line on the frames that the input layer reads.

    Args:
        args: the options of a training.
        frontend: rules of the frontend's frames; None: the model reads features.
    """
    rate = sampling_rate(args)
    if frontend is None:
        return f"features: {rate:.4g} frames a second"
    words = frontend.describe(rate)
    least, longest = frontend.needed(False), frontend.needed(True)
    words += f"; an utterance needs {least / rate:.3g} s"
    if longest > least:
        words += f", the longest of a training batch {longest / rate:.3g} s"
    if frontend.most is not None:
        words += f"; it hears {frontend.most / rate:g} s at most"
    return words


def count_tokens(token_list) -> int:
    """Return the tokens of ``token_list``, a file or the list itself."""
    if isinstance(token_list, (list, tuple)):
        return len(token_list)
    return len(Path(token_list).read_text(encoding="utf-8").splitlines())


def sampling_rate(args) -> float:
    """Return what the model reads per second: samples, or frames of features.

    Raises:
        NotPlanned: for features of unknown rate.
    """
    if args.input_size is not None:
        data = args.train_data_path_and_name_and_type
        paths = [Path(path) for path, name, _ in data if name == "speech"]
        try:
            record = read_record(paths[0].with_name(RECORD_NAME))
        except (IndexError, ModelError):
            raise NotPlanned(f"features without {RECORD_NAME} beside them") from None
        return 1 / record.step
    return parse_rate(str((args.frontend_conf or {}).get("fs", "16k")))
