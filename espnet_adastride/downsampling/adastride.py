"""AdaStride and AdaStride-F: downsampling with adaptive strides.

"AdaStride: Using Adaptive Strides in Sequential Data for Effective Downsampling"
(ICLR 2023 submission, OpenReview 7RBvBi3p3Et); the equations follow the author's later
TadaStride (Interspeech 2023). In the paper's order, each formula is one function:

1. scores      a_t = w . x_t                       (w starts at 0: uniform strides)
2. positioning p = (m - 1) [0, cumsum(softmax(a_2 .. a_n))]      position_steps
3. alignment   A[l, t] = softmax_t(-sigma_square (l - p_t)^2)    alignment_matrix
4. output      z = A x
5. loss        mean_b sum_{t>=2} relu(p_t - p_{t-1} - 1) / (n - 1)

with n valid steps, m = ceil(n / stride) output slots l = 0 .. m - 1. AdaStride-F
replaces 3 and 4: each step goes to the nearest slot only (the paper's scatter-add,
computed as a gather).

Scores and positions are float64 whatever the dtype of x, also under autocast: in
float32 the cumulative sum moves them by 5e-4 at T = 8000, in half precision by slots.
If the device has no float64 (Apple's ``mps``), they are on the CPU, as is everything
computed from them, up to the weights of A. On CUDA, triton_rows.py implements all of it
as kernels (docs/gpu.md).
"""

from typing import Final, Iterable, Iterator, Literal, Optional, Set, Tuple, Union

import torch

from espnet_adastride.downsampling.convolution import rectified_convolution
from espnet_adastride.downsampling.exportable import nearest_steps, scatter_rows
from espnet_adastride.downsampling.output import (
    ChunkedOutput,
    Downsampler,
    DownsamplingOutput,
    check_number,
    check_whole,
    checked_lengths,
    divided_or_nearest,
    downsampled_lengths,
    float64_device,
    length_mask,
    not_quantized,
    whole_lengths,
    zero_padding,
)
from espnet_adastride.downsampling.rows import (
    Ranges,
    SparseRows,
    alignment_ranges,
    build_rows,
    kernels_for,
    nearest_slot_ranges,
    resample_by_scores,
    resample_chunks,
    score_steps,
    triton_is_wanted,
)

#: AdaStride applies alignments of up to this many entries (T T') densely, larger ones
#: as sparse rows; the two are equal, below this the dense product is faster
DENSE_UP_TO = 128 * 64

#: a ``score_bound``: log sigmoid(a), which is bounded on one side
SIGMOID: Final = "sigmoid"
#: written out in the constructors, where recipe/known_options.py reads it
ScoreBound = Union[float, Literal["sigmoid"], None]


def check_bound(bound: Union[float, str, None]) -> ScoreBound:
    """Return a valid ``score_bound`` of :func:`bound_scores`.

    Raises:
        ValueError: naming the choices.
    """
    if bound is None:
        return None
    if bound == SIGMOID:
        return SIGMOID
    if isinstance(bound, str):
        raise ValueError(
            f"score_bound must be a number above 0, {SIGMOID} or null, got {bound!r}"
        )
    return check_number("score_bound", bound)


def bound_scores(
    scores: torch.Tensor, lengths: torch.Tensor, bound: ScoreBound
) -> torch.Tensor:
    """Return the scores that :func:`position_steps` exponentiates, within a bound.

    The published method has no bound: None leaves the scores alone. Otherwise

        b tanh((a - mean a) / sqrt(b^2 + var a))    for a number b
        log sigmoid(a)                              for "sigmoid"

    **A number.** Scores stay within (-b, b), and no step can get more than exp(2 b)
    times the length of another, so that a few steps cannot take the whole segment.
    Small scores are only centred.

    Mean and variance are over the utterance's steps that :func:`position_steps` uses.
    Without the mean, a constant added to the scores, which has no effect and which no
    gradient restrains, would drive all of them to the same bound: uniform strides that
    cannot learn any more. Without the variance, growing scores would end at one bound
    or the other: strides of two lengths, again without a gradient.

    **"sigmoid".** A step's length is proportional to sigmoid(a), as the weights of CIF
    (Dong & Xu 2020, see cif.py). That starts at 1/2 and can vanish, such as in a pause,
    but only double: a few steps can hardly take the whole segment.

    Args:
        scores: (B, T), any floating dtype.
        lengths: (B,) valid lengths n.
        bound: b, "sigmoid" or None.

    Returns:
        (B, T); float64 with a bound. Values in the padding are undefined.

    Raises:
        ValueError: another word.
    """
    if bound is None:
        return scores
    scores, lengths = _in_float64(scores, lengths)
    if isinstance(bound, str):
        check_bound(bound)
        return torch.nn.functional.logsigmoid(scores)
    moving = _moving_steps(scores, lengths)
    number = (lengths - 1).clamp(min=1).unsqueeze(1)
    scores = scores.masked_fill(~moving, 0.0)
    scores = scores - scores.sum(dim=1, keepdim=True) / number
    scores = scores.masked_fill(~moving, 0.0)
    variance = scores.square().sum(dim=1, keepdim=True) / number
    return bound * torch.tanh(scores / torch.sqrt(bound**2 + variance))


def _in_float64(numbers: torch.Tensor, *others: torch.Tensor):
    """Return the numbers in float64, on a device that supports it."""
    device = float64_device(numbers.device)
    moved = [tensor.to(device) for tensor in (numbers, *others)]
    return moved[0].to(torch.float64), *moved[1:]


def _moving_steps(scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return (B, T) booleans: all valid steps but the first, which stays at 0."""
    steps = torch.arange(scores.size(1), device=scores.device).unsqueeze(0)
    return (steps >= 1) & (steps < lengths.unsqueeze(1))


def position_steps(
    scores: torch.Tensor, lengths: torch.Tensor, output_lengths: torch.Tensor
) -> torch.Tensor:
    """Vector positioning: place every time step on the segment [0, m - 1].

    ``p = (m - 1) [0, cumsum(softmax(a_2 .. a_n))]``, which equals the published
    ``(m - 1) (c_t - c_1) / (c_n - c_1)`` with ``c = cumsum(exp(a))``, and stays finite
    at any finite scores. Adding a constant to the scores changes nothing.

    Args:
        scores: (B, T), any floating dtype.
        lengths: (B,) valid lengths n.
        output_lengths: (B,) number of output slots m.

    Returns:
        (B, T) float64 positions, non-decreasing, from 0 to m - 1; padded steps repeat
        the last valid position. All zero where n <= 1 or m <= 1.
    """
    with torch.autocast(device_type=scores.device.type, enabled=False):
        scores, lengths, output_lengths = _in_float64(scores, lengths, output_lengths)
        moving = _moving_steps(scores, lengths)
        scores = scores.masked_fill(~moving, -torch.inf)
        # an utterance of one step has no softmax: give it a finite one
        scores = scores.masked_fill((lengths <= 1).unsqueeze(1), 0.0)
        shares = torch.softmax(scores, dim=1) * moving
        last_slot = (output_lengths - 1).clamp(min=0).to(torch.float64).unsqueeze(1)
        positions = torch.cumsum(shares, dim=1) * last_slot
        # the sum of shares may exceed 1 by one rounding
        return torch.minimum(positions, last_slot)


def alignment_matrix(
    positions: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    sigma_square: float,
    max_output_length: Optional[int] = None,
) -> torch.Tensor:
    """Return the dense alignment: A[l, t] = softmax_t(-sigma_square (l - p_t)^2).

    This is the definition, for reading and testing: O(T T') time and memory.

    Args:
        positions: (B, T) from :func:`position_steps`.
        lengths: (B,) valid lengths n.
        output_lengths: (B,) number of output slots m.
        sigma_square: sharpness; large keeps the nearest step only (aliasing), small
            averages over neighbours (information loss).
        max_output_length: T'; by default the largest of ``output_lengths``.

    Returns:
        (B, T', T) float64; rows of valid slots sum to 1 over valid steps, all else is
        0.
    """
    if max_output_length is None:
        max_output_length = int(output_lengths.max())
    with torch.autocast(device_type=positions.device.type, enabled=False):
        positions, lengths, output_lengths = _in_float64(
            positions, lengths, output_lengths
        )
        slots = torch.arange(max_output_length, device=positions.device)
        distance = slots.to(torch.float64)[None, :, None] - positions[:, None, :]
        valid_step = length_mask(lengths, positions.size(1)).unsqueeze(1)
        valid_slot = length_mask(output_lengths, max_output_length).unsqueeze(2)
        logits = -sigma_square * distance.square()
        # rows of an empty utterance keep finite logits and are zeroed below
        logits = logits.masked_fill(
            ~valid_step & (lengths > 0)[:, None, None], -torch.inf
        )
        return torch.softmax(logits, dim=2) * (valid_slot & valid_step)


def positioning_loss(positions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return mean_b sum_{t>=2} relu(p_t - p_{t-1} - 1) / (n - 1), a float64 scalar.

    A jump above 1 would leave a slot without an input (a stride below one).

    Args:
        positions: (B, T).
        lengths: (B,); utterances of one step or none add 0 to the mean.
    """
    with torch.autocast(device_type=positions.device.type, enabled=False):
        lengths = lengths.to(positions.device)
        excess = torch.relu(_jumps(positions, lengths) - 1.0).sum(dim=1)
        return (excess / (lengths - 1).clamp(min=1)).mean()


def _jumps(positions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return p_t - p_{t-1} (B, T - 1), zero in the padding."""
    lengths = lengths.to(positions.device)
    jumps = positions[:, 1:] - positions[:, :-1]
    return jumps.masked_fill(
        ~length_mask((lengths - 1).clamp(min=0), jumps.size(1)), 0.0
    )


def largest_jump(positions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the largest p_t - p_{t-1} of the batch, a scalar; 0 if nothing moves.

    Above 1, slots are skipped; near m - 1, the positions have collapsed.
    """
    jumps = _jumps(positions.detach(), lengths)
    return jumps.max() if jumps.numel() else positions.new_zeros(())


def occupied_slots(
    positions: torch.Tensor, lengths: torch.Tensor, max_output_length: int
) -> torch.Tensor:
    """Return (B, T') booleans: whether the slot is the nearest one of a valid step."""
    return _slot_counts(positions, lengths, max_output_length) > 0


def _slot_counts(
    positions: torch.Tensor, lengths: torch.Tensor, max_output_length: int
) -> torch.Tensor:
    """Return (B, T'): the number of valid steps nearest to each slot."""
    slots = torch.round(positions.detach()).to(torch.int64)
    valid = length_mask(lengths.to(slots.device), positions.size(1)).to(torch.int64)
    counts = valid.new_zeros(positions.size(0), max_output_length)
    # clamp in any case: NaN positions would be an index error, which on a GPU ends
    # the process
    return counts.scatter_add(1, slots.clamp(0, max_output_length - 1), valid)


def largest_stride(positions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the largest number of steps nearest to one slot of the batch, a scalar.

    Args:
        positions: (B, T).
        lengths: (B,).
    """
    if not positions.numel():
        return positions.new_zeros(())
    counts = _slot_counts(positions, lengths, positions.size(1))
    return counts.max().to(positions.dtype)


def stride_entropy(positions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the evenness of the strides, a scalar from 0 to 1.

    The entropy of the shares (p_t - p_{t-1}) / (p_n - p_1), relative to that of equal
    shares, log(n - 1): 1 for uniform strides, 0 if one step takes the whole segment.
    The mean is over utterances with at least two such steps; 1 if there are none.

    Args:
        positions: (B, T).
        lengths: (B,).
    """
    positions, lengths = _in_float64(positions.detach(), lengths)
    jumps = _jumps(positions, lengths).clamp(min=0)
    total = jumps.sum(dim=1)
    usable = (lengths > 2) & (total > 0)
    shares = jumps / total.clamp(min=1e-12)[:, None]
    entropy = -torch.special.xlogy(shares, shares).sum(dim=1)
    entropy = entropy / torch.log((lengths - 1).clamp(min=2).to(torch.float64))
    kept = torch.where(usable, entropy, torch.zeros_like(entropy)).sum()
    number = usable.sum()
    return torch.where(number > 0, kept / number.clamp(min=1), torch.ones_like(kept))


def empty_slot_share(
    positions: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    max_output_length: Optional[int] = None,
) -> torch.Tensor:
    """Return the share of valid output slots without a nearest step, a scalar.

    Args:
        positions: (B, T).
        lengths: (B,).
        output_lengths: (B,).
        max_output_length: at least the largest of ``output_lengths``; by default it is
            computed, which synchronises with a GPU.
    """
    if max_output_length is None:
        max_output_length = max(int(output_lengths.max()), 1)
    valid = length_mask(output_lengths.to(positions.device), max_output_length)
    empty = valid & ~occupied_slots(positions, lengths, max_output_length)
    empty = empty.sum().to(float64_device(positions.device)).to(torch.float64)
    return empty / valid.sum().clamp(min=1).to(empty.device)


def _noting_kind(chunks, kinds):
    """Yield the chunks; add their dtype and device to the set ``kinds``."""
    for chunk in chunks:
        kinds.add((chunk.dtype, chunk.device))
        yield chunk


def with_ones(z: torch.Tensor) -> torch.Tensor:
    """Return z (B, T', D) with a column of ones."""
    return torch.cat([z, z.new_ones(*z.shape[:2], 1)], dim=2)


def divided_by_mass(
    x: torch.Tensor, frames: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Divide A^T z by the column sums of A.

    Args:
        x: A^T z (B, T, D + 1) of :func:`with_ones`.
        frames: z (B, T', D).
        positions: (B, T).

    Returns:
        (B, T, D); a step that no row reaches gets the frame of its nearest slot.
    """
    x, mass = x[..., :-1], x[..., -1:]
    reached = mass > torch.finfo(mass.dtype).tiny
    return divided_or_nearest(x, mass, reached, frames, positions)


class _AdaptiveStrides(Downsampler):
    """Base of AdaStride and AdaStrideF: scores, positions, positioning loss.

    Args:
        size: D, the number of features.
        stride: overall rate, any real number >= 1.
        sigma_square: sharpness of the weights, > 0 (5.0 in the paper's code).
        score_bound: keep scores within +-score_bound of the utterance's mean, or below
            0 with ``"sigmoid"`` (:func:`bound_scores`). The default is None because
            that is the published form; the ESPnet input layer uses 1.0
            (``training_defaults``) because unbounded scores can collapse the strides in
            training.
        score_rate: factor on the output of ``score``. The weights start at 0, so that
            with Adam and similar optimisers this is the learning rate of the scores
            relative to the rest; 1 is the published form.
        score_hidden: H, scores from a small network, ``a_t = w . relu(conv(x)_t)`` with
            H channels, instead of x itself; None is the published form.
        score_context: K, kernel size of the network's convolution, odd. Above 1
            without ``score_hidden``, the convolution is depthwise, as CIF's: D
            channels, K D multiply-accumulates a step rather than K D H.
        content_bound: b, a content term in the weights, ``exp(c_t)`` with ``c_t = b
            tanh(u . x_t / b)``: a slot can prefer some of its steps over others that
            are equally near. u starts at 0; None is the published form.
    """

    needs_zero_padding = False
    adapts_to = "the utterance: where frames are"
    has_positions = True
    loss_name = "loss_vp"
    training_defaults = {"score_bound": 1.0}
    #: whether the Triton kernels compute :meth:`place`; a layer that places steps
    #: differently sets it to False
    kernels_place = True

    def __init__(
        self,
        size: int,
        stride: float,
        sigma_square: float = 5.0,
        score_bound: Union[float, Literal["sigmoid"], None] = None,
        score_rate: float = 1.0,
        score_hidden: Optional[int] = None,
        score_context: int = 1,
        content_bound: Optional[float] = None,
    ):
        super().__init__(size, stride)
        triton_is_wanted()  # reject a wrong value in the environment
        self.score_rate = check_number("score_rate", score_rate)
        self.sigma_square = check_number("sigma_square", sigma_square)
        self.score_bound = check_bound(score_bound)
        self.score_hidden = (
            None if score_hidden is None else check_whole("score_hidden", score_hidden)
        )
        self.score_context = check_whole("score_context", score_context)
        if self.score_context % 2 == 0:
            raise ValueError(f"score_context must be odd, got {score_context!r}")
        self.content_bound = (
            None
            if content_bound is None
            else check_number("content_bound", content_bound)
        )
        self.score_network: Optional[torch.nn.Conv1d] = None
        if self.score_hidden is not None:
            self.score_network = torch.nn.Conv1d(
                size, self.score_hidden, self.score_context
            )
        elif self.score_context > 1:
            self.score_network = torch.nn.Conv1d(
                size, size, self.score_context, groups=size
            )
        if self.score_bound == SIGMOID and self.is_plain():
            self.kernels_place = False  # the kernels that score apply no sigmoid
        scored = self.score_hidden or size
        self.score = not_quantized(torch.nn.Linear(scored, 1, bias=False))
        if self.content_bound is not None:
            self.content = not_quantized(torch.nn.Linear(size, 1, bias=False))
        self.set_start()

    def set_start(self):
        """See :meth:`Downsampler.set_start`: uniform strides, plain weights."""
        for parameter in self.score.parameters():  # of a parametrised weight, its own
            torch.nn.init.zeros_(parameter)
        if self.content_bound is not None:
            torch.nn.init.zeros_(self.content.weight)

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        # at least float32: half precision would overflow or round the scores
        dtype = torch.promote_types(x.dtype, torch.float32)
        plain = self.is_plain()
        kernels = kernels_for(x) if self.kernels_place else None
        with torch.autocast(device_type=x.device.type, enabled=False):
            if kernels is not None:
                return self._by_kernels(kernels, x, dtype, lengths, output_lengths)
            x_dtype, x = x.dtype, x.to(dtype)
            if not plain:
                x = self.with_scores(zero_padding(x, lengths))
            output, positions = self.resample(
                x, self.resampled_weight(dtype), lengths, output_lengths
            )
            if not plain:
                output = self.without_scores(output)
            loss = positioning_loss(positions, lengths).to(dtype).to(x.device)
        return DownsamplingOutput(output.to(x_dtype), output_lengths, positions, loss)

    def _by_kernels(self, kernels, x, dtype, lengths, output_lengths):
        """Return the same as :meth:`downsample`, by the Triton kernels.

        A score network runs before them; x itself is resampled by its scores.
        """
        x_dtype, bound, plain = x.dtype, self.score_bound, self.is_plain()
        weight, scores = self.score_weight(dtype), None
        if not plain:
            padded = zero_padding(x.to(dtype), lengths)
            weight, scores = None, self.network_scores(padded).to(torch.float64)
            if bound == SIGMOID:
                scores, bound = bound_scores(scores, lengths, bound), None
            if self.content_bound is not None:
                x = torch.cat(self.with_content(padded), dim=2)
        output, positions, loss = kernels.resample(
            x,
            weight,
            scores,
            lengths,
            output_lengths,
            downsampled_lengths(x.size(1), self.stride),
            self.sigma_square,
            bound,
            self.kernel_ranges(kernels),
        )
        if not plain:
            output = self.without_scores(output).to(x_dtype)
        return DownsamplingOutput(output, output_lengths, positions, loss)

    def export_form(self, x, stride):
        """See :meth:`Downsampler.export_form`: with :meth:`resample_whole`."""
        lengths, output_lengths, width = whole_lengths(x, stride)
        plain = self.is_plain()
        x = x if plain else self.with_scores(x)
        if plain:
            scores = x.to(torch.float64) @ self.score_weight(torch.float64)
        else:
            scores = x[..., -1].to(torch.float64)
        positions = self.place(scores, lengths, output_lengths)
        output = self.resample_whole(x, positions, width)
        return output if plain else self.without_scores(output), positions

    def resample_whole(self, x, positions, width):
        """Return z (1, T', D) of one utterance, with exportable operations."""
        raise NotImplementedError

    def is_plain(self) -> bool:
        """Return whether scores and weights are those of the paper."""
        return self.score_network is None and self.content_bound is None

    def with_scores(self, x):
        """Return the tensor to resample with a score network or a content term.

        The last feature is the score: the positions are those of a score weight
        (0 .. 0, 1).

        Args:
            x: (B, T, D), zero in the padding, float32 or float64.

        Returns:
            (B, T, D + 1), or (B, T, D + 2) with a content term.
        """
        scores = self.network_scores(x).unsqueeze(2)
        return torch.cat([*self.with_content(x), scores], dim=2)

    def network_scores(self, x):
        """Return the scores (B, T) of x (B, T, D), zero in the padding."""
        dtype = x.dtype
        if self.score_network is not None:
            side = self.score_context // 2
            x = rectified_convolution(self.score_network, x, side)
        return x @ self.score_weight(dtype)

    def with_content(self, x):
        """Return the parts (B, T, D) and, with a content term, (B, T, 1) to resample.

        The weights of z = A x are those of the positions times ``exp(c_t)``. Therefore
        ``x_t exp(c_t)`` and ``exp(c_t)`` are resampled by the positions and then
        divided (:meth:`without_scores`): exact, in linear time, with the same rows.
        """
        if self.content_bound is None:
            return [x]
        preference = x @ self.content.weight.flatten().to(x.dtype)
        bound = self.content_bound
        weight = torch.exp(bound * torch.tanh(preference / bound)).unsqueeze(2)
        return [x * weight, weight]

    def without_scores(self, z):
        """Return z (B, T', D) from what :meth:`with_scores` or :meth:`with_content`
        returned, resampled; empty rows stay 0."""
        if self.content_bound is None:
            return z[..., : self.size]
        total = z[..., self.size : self.size + 1]
        return z[..., : self.size] / total.where(total > 0, total.new_ones(()))

    def resampled_weight(self, dtype):
        """Return the weight that gives the scores of the resampled tensor."""
        if self.is_plain():
            return self.score_weight(dtype)
        features = self.size + (1 if self.content_bound is None else 2)
        weight = torch.zeros(features, dtype=dtype, device=self.score.weight.device)
        weight[-1] = 1.0
        return weight

    def score_weight(self, dtype):
        """Return w (D,) of a_t = w . x_t."""
        weight = self.score.weight.flatten().to(dtype)
        return weight if self.score_rate == 1 else self.score_rate * weight

    def place(self, scores, lengths, output_lengths):
        """Return the positions (B, T) of scores (B, T), bounded if asked for."""
        scores = bound_scores(scores, lengths, self.score_bound)
        return position_steps(scores, lengths, output_lengths)

    def resample(self, x, score_weight, lengths, output_lengths):
        """Return z (B, T', D) from x (B, T, D), and the positions (B, T)."""
        width = downsampled_lengths(x.size(1), self.stride)
        return resample_by_scores(
            x,
            score_weight,
            lengths,
            output_lengths,
            self.place,
            lambda positions, lengths, output_lengths: self.ranges(
                positions,
                lengths.to(positions.device),
                output_lengths.to(positions.device),
                width,
                x.dtype,
            ),
            self.sigma_square,
        )

    def in_chunks(self, frames, length):
        """See :meth:`Downsampler.in_chunks`: scores, then the output."""
        plain = self.is_plain()
        kinds: Set[Tuple[torch.dtype, torch.device]] = set()

        def given():
            chunks = _noting_kind(frames(), kinds)
            return chunks if plain else self._chunks_with_scores(chunks)

        with torch.no_grad():
            parts = []
            for chunk in given():
                with torch.autocast(device_type=chunk.device.type, enabled=False):
                    # at least float32, as in `downsample`
                    weight = self.resampled_weight(
                        torch.promote_types(chunk.dtype, torch.float32)
                    )
                    parts.append(score_steps(chunk, weight))
            ((x_dtype, device),) = kinds
            scores = torch.cat(parts, dim=1)
            lengths = torch.tensor([length], device=scores.device)
            output_lengths = self.output_lengths(lengths)
            positions = self.place(scores, lengths, output_lengths)
            dtype = torch.promote_types(x_dtype, torch.float32)
            width = downsampled_lengths(length, self.stride)
            ranges = self.ranges(positions, lengths, output_lengths, width, dtype)
            loss = positioning_loss(positions, lengths).to(dtype).to(device)
            output_lengths = output_lengths.to(device)

        def output():
            x = (chunk.to(dtype) for chunk in given())
            for z in resample_chunks(x, ranges, positions, self.sigma_square):
                yield (z if plain else self.without_scores(z)).to(x_dtype)

        return ChunkedOutput(output, output_lengths, positions, loss)

    @torch.no_grad()
    def _chunks_with_scores(
        self, frames: Iterable[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Yield :meth:`with_scores` of consecutive chunks (1, t, D), as for the whole.

        Chunks are delayed until the score network's context in the next is available.
        """
        side, held, made = self.score_context // 2, None, 0
        for chunk in frames:
            chunk = chunk.to(torch.promote_types(chunk.dtype, torch.float32))
            held = chunk if held is None else torch.cat([held, chunk], dim=1)
            ready = held.size(1) - side
            if ready > made:
                yield self._scored(held)[:, made:ready]
                cut = max(ready - side, 0)
                held, made = held[:, cut:].clone(), ready - cut
        if held is not None and held.size(1) > made:
            yield self._scored(held)[:, made:]

    def _scored(self, x):
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.with_scores(x)

    def ranges(self, positions, lengths, output_lengths, width, dtype) -> Ranges:
        """Return the relevant steps of every slot, from positions (B, T)."""
        raise NotImplementedError

    def kernel_ranges(self, kernels):
        """Return the same as :meth:`ranges`, as a word of the Triton kernels."""
        raise NotImplementedError

    def rows(
        self,
        positions: torch.Tensor,
        lengths: torch.Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> SparseRows:
        """Return the alignment of this layer's output, for a second tensor.

        ``rows.apply(residual)`` downsamples a tensor next to the layer just as the
        layer downsampled x; ``rows.apply_transposed(z)`` upsamples a decoder's frames
        to the layer's input. Gradients reach the positions, and the scores through
        them. A content term is
        not included: the weights are those of the positions.

        Args:
            positions: (B, T) float64, from the layer's output.
            lengths: (B,) of the layer's input, a tensor; the rows are on its device.
            dtype: of the weights, float32 or float64.

        Raises:
            RuntimeError: if collapsed strides make the alignment too large; the layer
                itself applies these in windows.
        """
        device, lengths = lengths.device, checked_lengths(lengths, positions)
        width = downsampled_lengths(positions.size(1), self.stride)
        ranges = self.ranges(
            positions, lengths, self.output_lengths(lengths), width, dtype
        )
        rows = build_rows(ranges, positions, self.sigma_square, dtype)
        return rows.to(device)

    def upsample(self, z, lengths, steps, positions=None, normalised=True):
        """Upsample z (B, T', D') to (B, T, D') with the transposed alignment.

        The rows of A sum to 1, its columns do not: step t of A^T z is about 1 / stride
        of a constant z for even strides, and less if a slot has many steps. With
        ``normalised``, every step is divided by its column sum,

            x_t = sum_l A[l, t] z_l / sum_l A[l, t]

        so that a constant stays constant and AdaStride-F repeats a slot's frame over
        its steps; without, x = A^T z. A step that no row reaches (a large sigma_square)
        gets the frame of its nearest slot. Gradients reach the positions.

        Raises:
            ValueError: without positions.
            RuntimeError: see :meth:`rows`.
        """
        if positions is None:
            raise ValueError("upsampling by an alignment needs the positions")
        lengths = checked_lengths(lengths, z, steps)
        with torch.autocast(device_type=z.device.type, enabled=False):
            frames = z.to(torch.promote_types(z.dtype, torch.float32))
            rows = self.rows(positions, lengths, frames.dtype)
            if not normalised:
                return rows.apply_transposed(frames).to(z.dtype)
            x = rows.apply_transposed(with_ones(frames))
            x = divided_by_mass(x, frames, positions)
        return zero_padding(x, lengths).to(z.dtype)

    def export_inverse(self, z, steps, positions, stride):
        """See :meth:`Downsampler.export_inverse`: with :meth:`spread_whole`."""
        x = self.spread_whole(with_ones(z), positions)
        return divided_by_mass(x, z, positions)

    def spread_whole(self, z, positions):
        """Return A^T z (1, T, D) of one utterance, with exportable operations."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Show the constructor's arguments when the model is printed."""
        return (
            f"{super().extra_repr()}, sigma_square={self.sigma_square}, "
            f"score_bound={self.score_bound}, score_rate={self.score_rate}, "
            f"score_hidden={self.score_hidden}, score_context={self.score_context}, "
            f"content_bound={self.content_bound}"
        )


class AdaStride(_AdaptiveStrides):
    """AdaStride: z = A x with the alignment of :func:`alignment_matrix`.

    ``AdaStride(size, stride, sigma_square=5.0, score_bound=None)(x, lengths)`` with x
    (B, T, D) gives output (B, ceil(T / stride), D) and lengths ceil(lengths / stride).
    Source: the paper's equations, see the top of this file.

    ``score_bound`` is None here because that is the published form. The ESPnet input
    layer sets it to 1.0 because unbounded scores can collapse the strides in training.
    """

    def ranges(self, positions, lengths, output_lengths, width, dtype):
        """Return the steps that the alignment's softmax reaches."""
        margin = 2 * (self.content_bound or 0.0)  # exp(c_t) of two steps
        return alignment_ranges(
            positions, lengths, output_lengths, self.sigma_square, width, dtype, margin
        )

    def kernel_ranges(self, kernels):
        """Return the same as :meth:`ranges`, as a mode of the Triton kernels."""
        return kernels.BY_SOFTMAX

    def resample(self, x, score_weight, lengths, output_lengths):
        """Apply the alignment: dense if it is small, otherwise as sparse rows."""
        width = downsampled_lengths(x.size(1), self.stride)
        if x.size(1) * width > DENSE_UP_TO:
            return super().resample(x, score_weight, lengths, output_lengths)
        x = zero_padding(x, lengths)
        exact, weight = _in_float64(x, score_weight)
        scores = exact @ weight.to(torch.float64)
        positions = self.place(scores, lengths, output_lengths)
        alignment = alignment_matrix(
            positions, lengths, output_lengths, self.sigma_square, width
        )
        return alignment.to(x.dtype).to(x.device) @ x, positions

    def resample_whole(self, x, positions, width):
        """Apply the dense alignment: T T' numbers."""
        return (self._dense(positions, width, x.dtype) @ x[0]).unsqueeze(0)

    def spread_whole(self, z, positions):
        """Apply the dense alignment, transposed."""
        return (self._dense(positions, z.size(1), z.dtype).T @ z[0]).unsqueeze(0)

    def _dense(self, positions, width, dtype):
        """Return the alignment (T', T) of one utterance."""
        slots = torch.arange(width, device=positions.device).to(torch.float64)
        distance = slots.unsqueeze(1) - positions
        logits = -self.sigma_square * distance.square()
        # the differences to the largest one are small: float32 suffices
        logits = (logits - logits.amax(dim=1, keepdim=True)).to(dtype)
        return torch.softmax(logits, dim=1)


class AdaStrideF(_AdaptiveStrides):
    """AdaStride-F: every step goes to its nearest slot only.

    Slot ``q_t = round(p_t)``; weight ``w_t = exp(-sigma_square (q_t - p_t)^2)``,
    normalised over the steps that share a slot; ``z_l = sum_{q_t = l} w_t x_t``. It is
    a different function from AdaStride, not an approximation of it.

    A slot without a nearest step has no weights. The authors leave it zero
    (``empty_slots="zeros"``, the default of this class). ``"nearest"`` copies the step
    with the nearest position, which is the limit of AdaStride's softmax for large
    sigma_square: an encoder then never reads a frame without input. The ESPnet input
    layer uses ``"nearest"``.

    ``score_bound`` is None here because that is the published form. The ESPnet input
    layer sets it to 1.0 because unbounded scores can collapse the strides in training.

    Args:
        size: D, the number of features.
        stride: overall rate, any real number >= 1.
        sigma_square: sharpness of the weights within a slot, > 0.
        score_bound, score_rate, score_hidden, score_context, content_bound: as in
            AdaStride.
        empty_slots: ``"zeros"`` or ``"nearest"``.
    """

    EMPTY_SLOTS = ("zeros", "nearest")
    training_defaults = {"score_bound": 1.0, "empty_slots": "nearest"}

    def __init__(
        self,
        size: int,
        stride: float,
        sigma_square: float = 5.0,
        score_bound: Union[float, Literal["sigmoid"], None] = None,
        empty_slots: str = "zeros",
        score_rate: float = 1.0,
        score_hidden: Optional[int] = None,
        score_context: int = 1,
        content_bound: Optional[float] = None,
    ):
        super().__init__(
            size,
            stride,
            sigma_square,
            score_bound,
            score_rate,
            score_hidden,
            score_context,
            content_bound,
        )
        if empty_slots not in self.EMPTY_SLOTS:
            raise ValueError(
                f"empty_slots must be one of {', '.join(self.EMPTY_SLOTS)}, "
                f"got {empty_slots!r}"
            )
        self.empty_slots = empty_slots

    def ranges(self, positions, lengths, output_lengths, width, dtype):
        """Return the steps of every slot; for an empty one, optionally, the nearest."""
        fill_empty = self.empty_slots == "nearest"
        return nearest_slot_ranges(
            positions, lengths, output_lengths, width, fill_empty=fill_empty
        )

    def resample_whole(self, x, positions, width):
        """Scatter every step to its slot, as published; optionally fill empty ones."""
        weights, slots, empty = self._weights(positions, width, x.dtype)
        output = scatter_rows(x, weights, None, slots, width)
        if self.empty_slots == "nearest":
            filling = x[0].index_select(0, nearest_steps(positions, width)[0])
            output = torch.where(empty.unsqueeze(2), filling, output)
        # NaN positions give NaN frames, as in `rows.py`, not empty slots
        lost = positions[:, -1:].isnan().unsqueeze(2)
        return output.masked_fill(lost, torch.nan)

    def spread_whole(self, z, positions):
        """Give every step the frame of its slot, and those that it filled."""
        width = z.size(1)
        weights, slots, empty = self._weights(positions, width, z.dtype)
        x = weights[0].unsqueeze(1) * z[0].index_select(0, slots[0])
        if self.empty_slots == "nearest":
            filling = z[0] * empty[0].unsqueeze(1)
            x = x.index_add(0, nearest_steps(positions, width)[0], filling)
        return x.unsqueeze(0)

    def _weights(self, positions, width, dtype):
        """Return weight and slot of every step (1, T), and which slots are empty."""
        # clamp in any case: NaN positions would be an index error
        slots = torch.round(positions).to(torch.int64).clamp(0, width - 1)
        square = (slots - positions).square()
        nearest = torch.full_like(square[:, :1], torch.inf).expand(1, width)
        nearest = nearest.scatter_reduce(1, slots, square, "amin")
        terms = torch.exp(self.sigma_square * (nearest.gather(1, slots) - square))
        totals = torch.zeros_like(nearest).scatter_add(1, slots, terms)
        return (terms / totals.gather(1, slots)).to(dtype), slots, totals == 0

    def kernel_ranges(self, kernels):
        """Return the same as :meth:`ranges`, as a mode of the Triton kernels."""
        if self.empty_slots == "nearest":
            return kernels.NEAREST_SLOT_FILLED
        return kernels.NEAREST_SLOT
