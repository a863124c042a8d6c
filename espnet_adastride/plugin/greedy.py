"""Greedy CTC: the best token of every frame."""

from typing import List, NamedTuple, Tuple

import torch

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
