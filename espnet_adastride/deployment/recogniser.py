"""Transcribe recordings with an exported file: onnxruntime, no ESPnet, no torch::

    from espnet_adastride.deployment.recogniser import OnnxTranscriber

    transcript = OnnxTranscriber("model.onnx")("meeting.mp3")

The search is greedy CTC. It returns the same type as ``transcribe.Transcriber``.
"""

import zlib
from pathlib import Path
from typing import NamedTuple, Optional, Sequence, Union

import numpy as np

from espnet_adastride.corpora.audio import Say
from espnet_adastride.corpora.features import rebuild_upstream
from espnet_adastride.corpora.upstream_record import UpstreamRecord
from espnet_adastride.deployment.description import (
    KEY,
    damaged,
    frame_boundaries,
    output_names,
    read_description,
)
from espnet_adastride.deployment.features import LogMel
from espnet_adastride.deployment.pieces import PieceTranscriber, ctc_segment
from espnet_adastride.errors import (
    AudioError,
    ModelError,
    UserError,
    located,
    no_such,
)
from espnet_adastride.timing.transcripts import Segment


def text_of_tokens(tokens: Sequence[str], kind: str, space: str = "<space>") -> str:
    """Return the text of tokens, as written by ESPnet's tokenizers.

    Args:
        tokens: tokens of the model.
        kind: ``char``, ``word`` or ``bpe`` (SentencePiece).
        space: the space token of ``char``.
    """
    if kind == "word":
        return " ".join(tokens)
    if kind == "char":
        return "".join(" " if token == space else token for token in tokens)
    pieces, held = [], b""
    for token in [*tokens, ""]:
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            held += bytes([int(token[3:5], 16)])
            continue
        if held:
            pieces.append(held.decode("utf-8", errors="replace"))
            held = b""
        pieces.append(" \u2047 " if token == "<unk>" else token)
    text = "".join(pieces).replace("\u2581", " ")
    return text[1:] if text.startswith(" ") and tokens[0] != "<unk>" else text


class Heard(NamedTuple):
    """Output of a program for one utterance.

    Attributes:
        log_probs: (T', V).
        boundaries: (T' + 1,) seconds at which the frames begin and end.
    """

    log_probs: np.ndarray
    boundaries: np.ndarray


class OnnxModel:
    """A file of ``adastride export``.

    Args:
        path: the file.
        upstream_model: folder of the pretrained encoder of its features, if it
            has moved since training.
        threads: threads of onnxruntime; None: its default.

    Attributes:
        content: the description.
        card: card of the model.
        rate: sampling rate of its input in Hz.

    Raises:
        UserError: if it cannot be read.
    """

    def __init__(
        self,
        path: Union[str, Path],
        upstream_model: Union[None, str, Path] = None,
        threads: Optional[int] = None,
    ):
        try:
            import onnxruntime
        except ImportError:
            from espnet_adastride.extras import describe_missing

            raise UserError(describe_missing("onnxruntime")) from None
        if not Path(path).is_file():
            raise UserError(no_such(path))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(path), options)
        except Exception as error:  # onnxruntime has one class per error code
            first = str(error).splitlines()[0][:120]
            raise UserError(
                f"{path}: cannot be read as ONNX ({first}); export the model again"
            ) from None
        meta = self.session.get_modelmeta().custom_metadata_map
        if KEY not in meta:
            raise UserError(
                f"{path}: not a file of this project; write one with adastride export"
            )
        self.card = meta.get("card", "")
        self.content = read_description(meta[KEY], path)
        try:
            self._read_features(upstream_model)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, zlib.error):
            raise damaged(path, "frontend, upstream or stages") from None

    def _read_features(self, upstream_model: Union[None, str, Path]) -> None:
        """Make what the description says of the input and the outputs."""
        self.rate = int(self.content["rate"])
        self.upstream = self.log_mel = None
        if self.content["upstream"] is None:
            if upstream_model is not None:
                raise UserError(
                    f"--upstream_model {upstream_model}: this model reads audio; omit "
                    "the option"
                )
            self.log_mel = LogMel(self.content["frontend"])
        else:
            record = self.content["upstream"]
            record = UpstreamRecord(**{**record, "layers": tuple(record["layers"])})
            self.upstream = rebuild_upstream(record, upstream_model)
        self.names = output_names(self.content["stages"])

    def features(self, wave: np.ndarray, name: str = "the recording") -> np.ndarray:
        """Return the input features (T, F) of the program for samples (n,).

        Raises:
            AudioError: too short.
        """
        volume = self.content["volume"]
        peak = 0.0 if volume is None else float(np.abs(wave).max(initial=0.0))
        if peak:
            wave = (wave * volume / peak).astype(np.float32)
        if self.upstream is not None:
            with located(name, ModelError, AudioError):
                found = self.upstream(wave)
        else:
            least = self.content["frontend"]["least"]
            if len(wave) < least:
                raise AudioError(
                    f"{name}: too short for this model: {len(wave)} samples at "
                    f"{self.rate} Hz, but it needs {least}"
                )
            found = self.log_mel(wave)
        least = self.content["least_frames"]
        if len(found) < least:
            raise AudioError(
                f"{name}: too short for this model: {len(found)} frames, and {least} "
                "are needed"
            )
        return found

    def __call__(self, wave: np.ndarray, name: str = "the recording") -> Heard:
        """Return log probabilities and times of one utterance (n,) float32.

        Raises:
            AudioError: too short.
        """
        given = self.features(wave, name)
        log_probs, *positions = self.session.run(
            self.names, {"features": given[np.newaxis]}
        )
        if self.upstream is not None:
            record = self.upstream.record
            step, centre = record.step, record.centre / record.rate
        else:
            own = self.content["frontend"]
            step, centre = own["hop"] / self.rate, own["centre"] / self.rate
        boundaries = frame_boundaries(
            self.content["stages"],
            [one[0] for one in positions],
            len(given),
            log_probs.shape[1],
            step,
            centre,
            len(wave) / self.rate,
        )
        return Heard(log_probs[0], boundaries)

    def to_text(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""
        return text_of_tokens(tokens, self.content["token_type"], self.content["space"])


class OnnxTranscriber(PieceTranscriber):
    """An exported model as a function from recordings to transcripts.

    Args:
        model: file, or OnnxModel.
        max_segment: seconds; longer recordings are cut at pauses. None: as in
            ``transcribe.Transcriber``.
        upstream_model: see :class:`OnnxModel`.
        say: called with warnings, one line each; None: log them.

    Raises:
        ValueError: for a max_segment that is no number of seconds, 1 or more.
    """

    def __init__(
        self,
        model: Union[str, Path, OnnxModel],
        max_segment: Optional[float] = None,
        upstream_model: Union[None, str, Path] = None,
        say: Optional[Say] = None,
    ):
        if not isinstance(model, OnnxModel):
            model = OnnxModel(model, upstream_model)
        super().__init__(model, model.content["lengths"], max_segment, say)

    def _segment(self, wave: np.ndarray, start: float, name: str) -> Segment:
        model = self.trained
        heard = model(wave, name)
        return ctc_segment(
            heard.log_probs.argmax(axis=1).tolist(),
            heard.log_probs.max(axis=1).tolist(),
            heard.boundaries,
            model.content["tokens"],
            model.content["blank"],
            model.to_text,
            (start, start + len(wave) / model.rate),
        )
