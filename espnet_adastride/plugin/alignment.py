"""Times of ESPnet's own aligners, with an input layer whose strides adapt.

``espnet2.bin.asr_align`` (CTC segmentation) and, in ESPnet 202611, the forced alignment
of ``espnet2.bin.align`` (``espnet align``) take frame l to be at l times one constant
duration. After adaptive strides that is wrong. For models with the plugin's input
layer, both use the times of :mod:`frame_times`; nothing changes for other models.

The path, the scores and the windows are ESPnet's. Its times are mapped from one
constant duration to where the frames are. OWSM models are rejected: ESPnet encodes them
in windows, which it joins by counting frames.
"""

from typing import Optional

import numpy as np

from espnet_adastride.errors import ConfigurationError, UnknownTimesError
from espnet_adastride.plugin.frame_times import frame_times
from espnet_adastride.plugin.frontends import model_frames, why_unknown
from espnet_adastride.plugin.imports import after_import, over
from espnet_adastride.plugin.model import input_layer


def boundaries_of(model, samples: int, rate: int, frames: int) -> Optional[np.ndarray]:
    """Return the boundaries (frames + 1,) in seconds of the frames encoded last.

    None for models with another input layer.

    Raises:
        UnknownTimesError, ConfigurationError: the times are not known.
    """
    layer = input_layer(model)
    if layer is None:
        return None
    return frame_times(model, layer.take_trace(), samples, rate, frames).boundaries


def from_constant(times, duration: float, boundaries: np.ndarray) -> np.ndarray:
    """Map times that assume one constant frame duration to where frames are.

    What CTC segmentation calls l times the duration is the centre of frame l; linear
    between, and from the recording's start to its end.

    Args:
        times: seconds, of any shape.
        duration: seconds that each frame was taken to last.
        boundaries: (m + 1,) seconds between the frames.
    """
    count = len(boundaries) - 1
    assumed = (np.arange(-1, count + 1) + 0.0) * duration
    assumed[0], assumed[-1] = -0.5 * duration, (count - 0.5) * duration
    centres = (boundaries[1:] + boundaries[:-1]) / 2
    return np.interp(times, assumed, [boundaries[0], *centres, boundaries[-1]])


# ------------------------------------------------------------------ CTC segmentation
def _get_lpz(stock, self, speech):
    lpz = stock(self, speech)
    # raises where that is not known
    found = boundaries_of(self.asr_model, len(speech), self.fs, len(lpz))
    if getattr(self, "_boundaries", None) is None:
        # later calls encode noise, to estimate a constant rate
        self._boundaries = found
    return lpz


def _segment(stock, self, *args, **kwargs):
    self._boundaries = None
    task = stock(self, *args, **kwargs)
    if self._boundaries is None:
        return task
    duration, boundaries = task.config.index_duration, self._boundaries
    segments = [
        (*from_constant((start, end), duration, boundaries).tolist(), *rest)
        for start, end, *rest in task.segments
    ]
    timings = from_constant(task.timings, duration, boundaries)
    task.set(timings=timings, segments=segments)
    return task


# ------------------------------------------------------------------ forced alignment
def _log_probs(stock, self, speech):
    layer, rate = input_layer(self.network), self._sample_rate()
    if layer is not None:
        if self.s2t:
            raise ConfigurationError(
                "espnet2.bin.align: ESPnet encodes an OWSM model in windows and joins "
                "them by counting frames, which adaptive strides do not allow; align "
                "with an ASR model"
            )
        reason = why_unknown(self.network)
        if reason is not None:
            raise UnknownTimesError(f"espnet2.bin.align: {reason}")
        known = model_frames(self.network)
        wanted = known and known.rate
        if wanted is not None and rate != wanted:
            raise ConfigurationError(
                f"espnet2.bin.align reads audio at {rate} Hz, and this model takes "
                f"{wanted} Hz: use python -m espnet_adastride.bin.align"
            )
    result = stock(self, speech)
    self._boundaries = boundaries_of(self.network, len(speech), rate, len(result))
    self._duration = len(speech) / rate / max(len(result), 1)
    return result


def _align(stock, self, *args, **kwargs):
    segments = stock(self, *args, **kwargs)
    if self._boundaries is None:
        return segments
    for segment in segments:
        for token in segment.tokens:
            for end in ("start", "end"):
                frame = round(getattr(token, end) / self._duration)
                setattr(token, end, float(self._boundaries[frame]))
        segment.start = segment.tokens[0].start
        segment.end = segment.tokens[-1].end
    return segments


def _install_segmentation(module) -> None:
    kind = module.CTCSegmentation
    kind.get_lpz = over(kind.get_lpz, _get_lpz)
    kind.__call__ = over(kind.__call__, _segment)


def _install_forced(module) -> None:
    kind = module.ForcedAligner
    kind.log_probs = over(kind.log_probs, _log_probs)
    kind.__call__ = over(kind.__call__, _align)


def install() -> None:
    """Change ESPnet's aligners in place, when they are imported; idempotent."""
    after_import("espnet2.bin.asr_align", _install_segmentation)
    after_import("espnet2.bin.align", _install_forced)
