"""Greedy CTC: the best token of every frame.

:func:`inference` decodes the utterances of a recipe (``bin/asr_inference_ctc.py``).
"""

import argparse
import logging
from typing import List, NamedTuple, Tuple

import torch

from espnet_adastride.corpora.tokens import check_pieces
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.espnet import TokenIDConverter, build_tokenizer, to_device
from espnet_adastride.timing.ctc import path_spans


def ctc_collapse(path: List[int], blank: int) -> List[int]:
    """Merge repeats, then drop blanks: [0, 5, 5, 0, 5] -> [5, 5] with blank 0."""
    return [span.token for span in path_spans(path, blank)]


def main_frames(frames) -> torch.Tensor:
    """Return the last block's frames (B, T', D) from the result of ``model.encode``."""
    return frames[0] if isinstance(frames, tuple) else frames  # intermediate CTC


class Decoded(NamedTuple):
    """The result of greedy CTC for one utterance.

    Attributes:
        text: of the tokens.
        tokens, ids: of the path, repeats merged and blanks dropped.
        score: log probability of the path, summed over the frames.
        frames: of the encoder.
        emitting: those of them whose best token is not blank.
    """

    text: str
    tokens: List[str]
    ids: List[int]
    score: float
    frames: int
    emitting: int


class CTCGreedy:
    """A trained model as a function from speech to :class:`Decoded`.

    Args:
        model: ESPnetASRModel.
        args: its options, from config.yaml.
        device: where the model is, ``cpu`` or ``cuda``.

    Raises:
        ConfigurationError: if the model has no CTC branch.
        ModelError: if ``bpemodel`` is not that of the training.
    """

    def __init__(self, model: torch.nn.Module, args, device: str = "cpu"):
        if model.ctc is None:
            raise ConfigurationError(
                "this model has no CTC branch (ctc_weight 0): decode it with "
                "espnet2.bin.asr_inference"
            )
        self.model, self.args, self.device = model.eval(), args, device
        self.converter = TokenIDConverter(token_list=model.token_list)
        bpe = {"bpemodel": args.bpemodel} if args.token_type == "bpe" else {}
        if bpe:
            check_pieces(args.bpemodel, model.token_list)
        self.tokenizer = build_tokenizer(token_type=args.token_type, **bpe)

    @torch.no_grad()
    def log_probs(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return log probabilities (B, T', V) of a padded batch, and lengths (B,)."""
        batch = to_device(
            {"speech": speech, "speech_lengths": speech_lengths}, self.device
        )
        frames, lengths = self.model.encode(**batch)
        return self.model.ctc.log_softmax(main_frames(frames)), lengths

    def read(self, ids: List[int]) -> Tuple[str, List[str], List[int]]:
        """Return (text, tokens, token ids) of the best token of every frame."""
        ids = ctc_collapse(ids, self.model.blank_id)
        tokens = self.converter.ids2tokens(ids)
        return self.tokenizer.tokens2text(tokens), tokens, ids

    def __call__(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> List[Decoded]:
        """Decode a padded batch.

        Args:
            speech: (B, samples), or (B, T, F) of extracted features.
            speech_lengths: (B,).

        Returns:
            One for each utterance.

        Raises:
            TooShortUttError: if no utterance of the batch is long enough.
        """
        log_probs, lengths = self.log_probs(speech, speech_lengths)
        best, path = log_probs.max(dim=2)
        blank = self.model.blank_id
        return [
            Decoded(
                *self.read(ids[:length].tolist()),
                float(scores[:length].sum()),
                length,
                int((ids[:length] != blank).sum()),
            )
            for scores, ids, length in zip(best.cpu(), path.cpu(), lengths.tolist())
        ]


def inference(args: argparse.Namespace) -> None:
    """Decode all utterances of the scp files and write the results."""
    from espnet_adastride.plugin.espnet import (
        DatadirWriter,
        TooShortUttError,
        asr_task,
        check_short_utt,
        set_all_random_seed,
    )
    from espnet_adastride.plugin.frontends import model_frames, why_unknown
    from espnet_adastride.plugin.model import set_stride

    logging.basicConfig(
        level=args.log_level,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    if args.ngpu > 1:
        raise ConfigurationError(
            "ngpu: decoding uses at most one GPU; use more jobs instead"
        )
    set_all_random_seed(args.seed)
    device = "cuda" if args.ngpu else "cpu"
    model, options = asr_task.ASRTask.build_model_from_file(
        args.asr_train_config, args.asr_model_file, device
    )
    if args.stride is not None:
        set_stride(model, options, args.stride)
    decode = CTCGreedy(model, options, device)
    # None: the model reads features, or the frames of its samples are not known
    known = None if why_unknown(model) else model_frames(model)

    def too_short(samples: int) -> bool:
        """Return whether an utterance alone gives an error."""
        count = samples if known is None else known.length(samples)
        short = check_short_utt(getattr(model.encoder, "embed", None), count)[0]
        return short or (known is not None and samples < known.least)

    loader = asr_task.ASRTask.build_streaming_iterator(
        args.data_path_and_name_and_type,
        dtype=args.dtype,
        batch_size=args.batch_size,
        key_file=args.key_file,
        num_workers=args.num_workers,
        preprocess_fn=asr_task.ASRTask.build_preprocess_fn(decode.args, False),
        collate_fn=asr_task.ASRTask.build_collate_fn(decode.args, False),
        allow_variable_data_keys=args.allow_variable_data_keys,
        inference=True,
    )
    with DatadirWriter(args.output_dir) as writer:
        recognised = writer["1best_recog"]
        for keys, batch in loader:
            lengths = batch["speech_lengths"].tolist()
            for length in lengths:
                logging.info("speech length: %d", length)
            try:
                results = decode(batch["speech"], batch["speech_lengths"])
            except TooShortUttError as error:
                logging.warning("Utterance %s %s", ", ".join(keys), error)
                results = [Decoded("", [], [], 0.0, 0, 0)] * len(keys)
            for key, samples, heard in zip(keys, lengths, results):
                # in a batch with longer utterances, padding would change the result
                if heard.frames and too_short(samples):
                    words = "Utterance %s has %d samples and is too short alone"
                    logging.warning(words, key, samples)
                    heard = Decoded("", [], [], 0.0, 0, 0)
                recognised["token"][key] = " ".join(heard.tokens)
                recognised["token_int"][key] = " ".join(map(str, heard.ids))
                recognised["score"][key] = str(heard.score)
                recognised["frames"][key] = f"{heard.frames} {heard.emitting}"
                recognised["text"][key] = heard.text
