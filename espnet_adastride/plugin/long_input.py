"""One long utterance through the trunk in chunks of time, in bounded memory.

An hour of speech would need 14 GB for the first stage's output alone (conv2d, 256
channels). One long utterance is therefore computed in chunks, with the same result. A
stage with positions reads its input twice, for the scores and for the frames; what fits
is kept, the rest is computed again.
"""

from functools import partial

import torch

from espnet_adastride.downsampling import downsampled_lengths
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.plugin.true_times import next_times

#: an utterance whose frames take more bytes than this after a stage is computed in
#: chunks (not in training or in batches); then: bytes of a chunk, about, and how many
#: bytes of the stages' outputs may be kept rather than computed again
LONG_BYTES = 2**29
CHUNK_BYTES = 2**26
HELD_BYTES = 2**31


def is_long(layer, x, x_mask) -> bool:
    """Return whether a batch is one long utterance, without padding or gradients."""
    if torch.is_grad_enabled() or x.size(0) != 1:
        return False
    width = max(stage.width for stage in layer.conv)
    if x.size(1) * width * x.element_size() <= LONG_BYTES:
        return False
    return x_mask is None or bool(x_mask.all())


def run_in_chunks(layer, x, lengths):
    """Run ``layer.run_stages`` and the linear layer for one long utterance.

    Args:
        layer: AdaptiveSubsampling.
        x: (1, T, F), for which :func:`is_long`.
        lengths: (1,): T.

    Returns:
        x (1, T', D), the frames' times or None, lengths (1,), and a list of StageTrace.
    """
    width = max(stage.width for stage in layer.conv)
    size = max(CHUNK_BYTES // (width * x.element_size()), 1)
    frames, length, trace = partial(x.split, size, dim=1), x.size(1), []
    held, times = 0, layer.start_times(x)
    for stage, downsampler in zip(layer.conv, layer.downsamplers):
        frames = partial(_convolve_chunks, stage, frames)
        result = downsampler.in_chunks(frames, length)
        frames = result.output
        trace.append(StageTrace(lengths, *result[1:], downsampler.loss_name))
        length = int(result.lengths)  # not always what the stride says
        shorter = torch.tensor([length], device=x.device)
        times = next_times(times, result.positions, lengths, shorter, length)
        lengths = shorter
        needed = length * stage.width * x.element_size()
        if stage is not layer.conv[-1] and held + needed <= HELD_BYTES:
            frames = partial(_joined(frames(), length).split, size, dim=1)
            held = needed  # what was held before is not read again
    return _joined(map(layer.out[0], frames()), length), times, lengths, trace


def _convolve_chunks(stage, frames):
    """Yield a stage's output for consecutive chunks, as for all of them at once.

    The convolution sees one more frame on both sides: a chunk waits for the next one,
    and the output at the edge, which saw padding, is computed again.
    """
    stride = stage.stride
    held, made = None, 0  # frames from the last output's centre on; its number
    for chunk in frames():
        held = chunk if held is None else torch.cat([held, chunk], dim=1)
        ready = (held.size(1) - 2) // stride + 1  # with their right neighbours
        if ready > made:
            yield stage(held)[:, made:ready]
            held, made = held[:, (ready - 1) * stride :].clone(), 1
    if downsampled_lengths(held.size(1), stride) > made:
        yield stage(held)[:, made:]


def _joined(chunks, length):
    """Join chunks, with the memory of the result and one chunk."""
    whole, start = None, 0
    for chunk in chunks:
        if whole is None:
            whole = chunk.new_empty(1, length, chunk.size(2))
        whole[:, start : start + chunk.size(1)] = chunk
        start += chunk.size(1)
    return whole
