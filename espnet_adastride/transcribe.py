"""Recordings to text with times, by any trained model::

    from espnet_adastride.transcribe import Transcriber

    transcript = Transcriber("exp/asr_train_...")("meeting.mp3")
    print(transcript.text)
    for word in transcript.words:
        print(word.start, word.end, word.text)

Importing this imports ESPnet. The command is ``adastride-transcribe``.
"""

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

import numpy as np

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
from espnet_adastride.audio import cut_at_pauses, is_silent, prepare, read_audio
from espnet_adastride.plugin.errors import UnknownTimesError
from espnet_adastride.plugin.trained import Encoded, TrainedModel
from espnet_adastride.times import (
    AlignmentError,
    Timed,
    force_align,
    path_spans,
    shifted,
    spread_words,
    timed_tokens,
    timed_words,
    words_of_tokens,
)
from espnet_adastride.transcripts import Segment, Transcript, join_segments

__all__ = ["Segment", "Timed", "Transcriber", "Transcript"]


class Transcriber:
    """A trained model as a function from recordings to transcripts.

    Args:
        model: an experiment's folder (``exp/asr_...``), a packed ``.zip``, or a
            TrainedModel.
        asr_model_file: parameters in the folder; None: the averaged ones.
        inference_config: YAML file, or a dict, of ESPnet's beam search; None: greedy
            CTC, or a beam of 10 where the model has no CTC branch.
        device: ``cpu`` or ``cuda``.
        stride: overall rate of the input layer, for AdaStride's; None: as trained.
        max_segment: seconds; longer recordings are cut at pauses.
        upstream_model: folder of the pretrained encoder whose features the model
            reads, if it is not where it was in training.
        times: say when words and tokens were spoken; False: text alone, which needs
            nothing to be known of the frontend's frames.

    Raises:
        PluginError: in one line, for a model or an option that will not do.
    """

    def __init__(
        self,
        model: Union[str, Path, TrainedModel],
        asr_model_file: Optional[str] = None,
        inference_config: Union[None, str, Path, Dict[str, Any]] = None,
        device: str = "cpu",
        stride: Optional[float] = None,
        max_segment: float = 20.0,
        upstream_model: Union[None, str, Path] = None,
        times: bool = True,
    ):
        if not max_segment >= 1:
            raise ValueError(f"max_segment must be 1 second or more, got {max_segment}")
        if not isinstance(model, TrainedModel):
            model = TrainedModel(
                model, asr_model_file, device, inference_config, stride, upstream_model
            )
        reason = model.why_no_times() if times else None
        if reason is not None:
            raise UnknownTimesError(
                f"{reason}; the text alone needs none (--format txt, or times=False)"
            )
        self.trained, self.max_segment, self.times = model, max_segment, times

    def __call__(
        self,
        audio: Union[str, Path, np.ndarray],
        rate: Optional[int] = None,
        name: Optional[str] = None,
    ) -> Transcript:
        """Transcribe a recording.

        Args:
            audio: a file, ``-`` for standard input, or samples (n,) or (n, channels),
                floats in [-1, 1].
            rate: samples per second of an array; None: the model's.
            name: of the transcript; None: the file's path.

        Returns:
            Transcript: text, words and segments; times in seconds.

        Raises:
            AudioError: in one line, if the recording cannot be used.
        """
        wanted = self.trained.rate
        if isinstance(audio, (str, Path)):
            name = name or str(audio)
            wave = read_audio(audio, wanted)
        else:
            name = name or "the recording"
            wave = prepare(audio, rate or wanted, wanted, name)
        return self.transcribe(wave, name)

    def transcribe(
        self,
        wave: np.ndarray,
        name: str,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> Transcript:
        """Transcribe samples (n,) at the model's rate; see :meth:`__call__`.

        ``progress`` is told the seconds of each segment when it is done.
        """
        rate = self.trained.rate
        segments = []
        for begin, end in cut_at_pauses(wave, rate, self.max_segment):
            part, start = wave[begin:end], begin / rate
            if is_silent(part):
                segment = Segment(start, end / rate, "", [], [], "ctc")
            else:
                segment = self._segment(part, start, name)
            segments.append(segment)
            progress(len(part) / rate)
        return join_segments(name, len(wave) / rate, segments, is_silent(wave))

    def _segment(self, wave: np.ndarray, start: float, name: str) -> Segment:
        encoded = self.trained.encode(wave, name, self.times)
        if self.trained.search is None:
            return self._greedy(encoded, wave, start)
        return self._beam(encoded, wave, start)

    def recognise(self, encoded: Encoded, wave: np.ndarray) -> Segment:
        """Return what the CTC branch hears in one encoded utterance, with times."""
        return self._greedy(encoded, wave, 0.0)

    def _greedy(self, encoded: Encoded, wave, start: float) -> Segment:
        scores, path = encoded.log_probs.max(dim=1)
        return self._timed(encoded, path.tolist(), scores.tolist(), wave, start)

    def _timed(self, encoded, path: List[int], scores, wave, start) -> Segment:
        """Return the segment that a CTC path says."""
        model = self.trained.model
        if encoded.times is None:
            ids = [span.token for span in path_spans(path, model.blank_id)]
            return self._untimed([model.token_list[i] for i in ids], wave, start)
        tokens = timed_tokens(
            path_spans(path, model.blank_id),
            scores,
            encoded.times.boundaries,
            model.token_list,
        )
        names = [token.text for token in tokens]
        words, owners = words_of_tokens(names, self.trained.to_text)
        return Segment(
            start,
            start + len(wave) / self.trained.rate,
            self.trained.to_text(names).strip(),
            shifted(timed_words(words, owners, tokens), start),
            shifted(tokens, start),
            "ctc" if encoded.times.known else "even",
        )

    def _untimed(self, names, wave, start: float) -> Segment:
        text = self.trained.to_text(names).strip()
        end = start + len(wave) / self.trained.rate
        return Segment(start, end, text, [], [], "none")

    def _beam(self, encoded: Encoded, wave, start: float) -> Segment:
        results = self.trained.search(encoded.speech)
        if isinstance(results, tuple):  # beside those of intermediate CTC
            results = results[0]
        names = results[0][1] if results else []
        if encoded.times is None:
            return self._untimed(names, wave, start)
        ids = self.trained.converter.tokens2ids(names)
        if encoded.log_probs is not None:
            try:
                path, scores = force_align(
                    encoded.log_probs, ids, self.trained.model.blank_id
                )
                return self._timed(encoded, path, scores, wave, start)
            except AlignmentError:  # attention may say more than CTC has frames for
                pass
        text = self.trained.to_text(names).strip()
        end = start + len(wave) / self.trained.rate
        return Segment(
            start, end, text, spread_words(text.split(), start, end), [], "spread"
        )

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
        encoded = self.trained.encode(wave, name)
        if encoded.log_probs is None:
            raise AlignmentError("this model has no CTC branch, which alignment needs")
        words, ids, owners = self.trained.tokens_of_words(text)
        model = self.trained.model
        path, scores = force_align(encoded.log_probs, ids, model.blank_id)
        times = encoded.times.uniform if uniform else encoded.times.boundaries
        tokens = timed_tokens(
            path_spans(path, model.blank_id), scores, times, model.token_list
        )
        return Segment(
            0.0,
            len(wave) / self.trained.rate,
            " ".join(words),
            timed_words(words, owners, tokens),
            tokens,
            "ctc" if encoded.times.known else "even",
        )
