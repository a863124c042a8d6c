"""Recordings to text with times, by any trained model::

    from espnet_adastride.transcribe import Transcriber

    transcript = Transcriber("exp/asr_train_...")("meeting.mp3")
    print(transcript.text)
    for word in transcript.words:
        print(word.start, word.end, word.text)

Importing this imports ESPnet. The command is ``adastride transcribe``.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
from espnet_adastride.corpora.audio import Say
from espnet_adastride.deployment.pieces import (
    PieceTranscriber,
    check_max_segment,
    ctc_segment,
)
from espnet_adastride.errors import AlignmentError, UnknownTimesError
from espnet_adastride.plugin.frame_times import join_times
from espnet_adastride.plugin.streaming import Streamer
from espnet_adastride.plugin.trained import Encoded, TrainedModel
from espnet_adastride.timing.ctc import (
    Timed,
    force_align,
    path_spans,
    spread_words,
    timed_tokens,
    timed_words,
)
from espnet_adastride.timing.transcripts import Segment, Transcript, join_segments

__all__ = ["Segment", "Timed", "Transcriber", "Transcript"]


class Transcriber(PieceTranscriber):
    """A trained model as a function from recordings to transcripts.

    Args:
        model: an experiment's folder (``exp/asr_...``), a packed ``.zip``, or a
            TrainedModel.
        asr_model_file: parameters in the folder; None: the averaged ones.
        inference_config: YAML file, or a dict, of ESPnet's beam search; None: greedy
            CTC, or a beam of 10 where the model has no CTC branch.
        device: ``cpu`` or ``cuda``.
        stride: overall stride, for methods with real strides; None: as trained.
        max_segment: seconds; longer recordings are cut at pauses. None: as long as 99 %
            of the utterances that the model was trained on, 20 at most; recordings that
            are not longer than the longest one stay whole. 20 where that is not known.
        upstream_model: folder of the pretrained encoder whose features the model
            reads, if it is not where it was in training.
        block: seconds of a block, for a model that places blocks (docs/streaming.md);
            None: as trained.
        times: give the times of words and tokens; False: text alone, for which the
            times of the frontend's frames need not be known.
        say: called with warnings, one line each; None: log them.

    Raises:
        UserError: in one line, for a model or an option that will not do.
        ValueError: for a max_segment that is no number of seconds, 1 or more.
    """

    def __init__(
        self,
        model: Union[str, Path, TrainedModel],
        asr_model_file: Optional[str] = None,
        inference_config: Union[None, str, Path, Dict[str, Any]] = None,
        device: str = "cpu",
        stride: Optional[float] = None,
        max_segment: Optional[float] = None,
        upstream_model: Union[None, str, Path] = None,
        times: bool = True,
        say: Optional[Say] = None,
        block: Optional[float] = None,
    ):
        check_max_segment(max_segment)  # before seconds of loading
        if not isinstance(model, TrainedModel):
            model = TrainedModel(
                model,
                asr_model_file,
                device,
                inference_config,
                stride,
                upstream_model,
                block,
            )
        reason = model.why_no_times() if times else None
        if reason is not None:
            raise UnknownTimesError(
                f"{reason}; the text alone needs none (--format txt, or times=False)"
            )
        self.times = times
        lengths = getattr(model, "lengths", None)
        known = None if lengths is None else (lengths.usual, lengths.longest)
        super().__init__(model, known, max_segment, say)

    def encode_pieces(
        self, wave: np.ndarray, name: str = "the recording"
    ) -> Iterator[Tuple[int, np.ndarray, Encoded]]:
        """Yield (first sample, samples, encoded) of each piece of a recording.

        Raises:
            AudioError: if one is too short or too long for the model.
        """
        for begin, end in self.pieces(wave):
            part = wave[begin:end]
            yield begin, part, self.trained.encode(part, name)

    def encode(self, wave: np.ndarray, name: str = "the recording") -> Encoded:
        """Encode a recording of any length, in pieces; times are the recording's.

        Raises:
            AudioError: see :meth:`encode_pieces`.
        """
        return self.joined(list(self.encode_pieces(wave, name)), len(wave))

    def joined(self, pieces, samples: int) -> Encoded:
        """Return the pieces of :meth:`encode_pieces` as one recording.

        Without ``speech``: what the model was given belongs to pieces.
        """
        encoded = [own for _, _, own in pieces]
        if len(encoded) == 1:
            return encoded[0]
        rate, log_probs = self.trained.rate, None
        if encoded[0].log_probs is not None:
            log_probs = torch.cat([own.log_probs for own in encoded])
        return Encoded(
            torch.cat([own.frames for own in encoded]),
            log_probs,
            join_times(
                [own.times for own in encoded],
                [begin / rate for begin, _, _ in pieces],
                samples / rate,
            ),
        )

    def recognise_pieces(self, pieces) -> Tuple[str, List[Timed]]:
        """Return text and timed words of the CTC branch for pieces."""
        rate = self.trained.rate
        heard = [
            self._greedy(own, begin / rate, (begin + len(part)) / rate)
            for begin, part, own in pieces
        ]
        text = " ".join(segment.text for segment in heard if segment.text)
        return text, [word for segment in heard for word in segment.words]

    def _segment(self, wave: np.ndarray, start: float, name: str) -> Segment:
        encoded = self.trained.encode(wave, name, self.times)
        end = start + len(wave) / self.trained.rate
        if self.trained.search is None:
            return self._greedy(encoded, start, end)
        with self.trained.lock:
            found = self.trained.search(encoded.speech)
        return self._searched(encoded, found, start, end)

    def _greedy(self, encoded: Encoded, start: float, end: float) -> Segment:
        scores, path = encoded.log_probs.max(dim=1)
        return self._timed(encoded, path.tolist(), scores.tolist(), start, end)

    def _timed(self, encoded, path: List[int], scores, start, end) -> Segment:
        """Return the segment of a CTC path."""
        model = self.trained.model
        if encoded.times is None:
            ids = [span.token for span in path_spans(path, model.blank_id)]
            return self._untimed([model.token_list[i] for i in ids], start, end)
        return ctc_segment(
            path,
            scores,
            encoded.times.boundaries,
            model.token_list,
            model.blank_id,
            self.trained.to_text,
            (start, end),
            "ctc" if encoded.times.known else "even",
        )

    def _untimed(self, names, start: float, end: float) -> Segment:
        text = " ".join(self.trained.to_text(names).split())
        return Segment(start, end, text, [], [], "none")

    def _searched(self, encoded: Encoded, results, start, end) -> Segment:
        """Return the segment that ESPnet's beam search found, with times."""
        if isinstance(results, tuple):  # beside those of intermediate CTC
            results = results[0]
        names = results[0][1] if results else []
        if encoded.times is None:
            return self._untimed(names, start, end)
        ids = self.trained.converter.tokens2ids(names)
        if encoded.log_probs is not None:
            try:
                path, scores = force_align(
                    encoded.log_probs, ids, self.trained.model.blank_id
                )
                return self._timed(encoded, path, scores, start, end)
            except AlignmentError:  # attention may say more than CTC has frames for
                pass
        segment = self._untimed(names, start, end)
        words = spread_words(segment.text.split(), start, end)
        return segment._replace(words=words, times="spread")

    def stream(self) -> Streamer:
        """Return a recogniser of one recording while it is spoken.

        Raises:
            ConfigurationError: in one line, if the model needs whole utterances.
        """
        return Streamer(self.trained)

    def streamed(self, streamer: Streamer, name: str) -> Transcript:
        """Return the transcript of a stream that has ended.

        Of greedy CTC; with an ``inference_config``, of ESPnet's beam search over the
        frames that the stream gave.
        """
        end = streamer.seconds
        words, _ = streamer.words()
        segment = Segment(0.0, end, streamer.text(), words, streamer.tokens, "ctc")
        if self.trained.search is not None:
            segment = self._searched(*streamer.searched(), 0.0, end)
        return join_segments(name, end, [segment], streamer.silent)

    def align(
        self,
        wave: np.ndarray,
        text: str,
        uniform: bool = False,
        name: str = "the recording",
    ) -> Segment:
        """Say when the words of a transcript were spoken.

        Args:
            wave: (n,) float32 at the model's rate.
            text: the transcript.
            uniform: assume one constant frame rate, as ESPnet's asr_align does without
                the plugin, rather than where the frames really are.
            name: for messages.

        Raises:
            AudioError, ModelError, AlignmentError, UnknownTimesError: in one line.
        """
        words, ids, owners = self.trained.tokens_of_words(text)
        model, rate = self.trained.model, self.trained.rate
        # the columns of the transcript's tokens alone: a long recording has many rows
        used, numbers = np.unique([model.blank_id, *ids], return_inverse=True)
        columns = torch.from_numpy(used)
        parts, times, starts = [], [], []
        for begin, _, encoded in self.encode_pieces(wave, name):
            if encoded.log_probs is None:
                raise AlignmentError(
                    "this model has no CTC branch (ctc_weight 0), which alignment needs"
                )
            parts.append(encoded.log_probs[:, columns])
            times.append(encoded.times)
            starts.append(begin / rate)
        blank = int(numbers[0])
        path, scores = force_align(torch.cat(parts), numbers[1:].tolist(), blank)
        joined = join_times(times, starts, len(wave) / rate)
        tokens = timed_tokens(
            path_spans(path, blank),
            scores,
            joined.uniform if uniform else joined.boundaries,
            [model.token_list[index] for index in used],
        )
        return Segment(
            0.0,
            len(wave) / self.trained.rate,
            " ".join(words),
            timed_words(words, owners, tokens),
            tokens,
            "ctc" if joined.known else "even",
        )
