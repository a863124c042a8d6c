"""The contract of every downsampling method: lengths, masks and output.

``layer(x, lengths)`` takes a padded batch ``x`` (B, T, D) and the valid lengths (B,)
and returns a :class:`DownsamplingOutput`. For every method:

* output length = ceil(length / stride), of each utterance's own length
  (:func:`downsampled_lengths`, the only implementation of the formula), with the
  stride of :meth:`Downsampler.current_stride` if it is learned;
* an utterance's output is the same alone and beside longer ones, whatever the values in
  the padding (NaN included);
* the output is zero beyond its length.
"""

import math
import numbers
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

import torch

from espnet_adastride.options import MAX_STRIDE

#: a number of steps, or a tensor of such numbers
Steps = TypeVar("Steps", int, torch.Tensor)

#: returns the consecutive chunks (1, t, D) of one utterance at each call
Frames = Callable[[], Iterable[torch.Tensor]]


class DownsamplingOutput(NamedTuple):
    """The output of a downsampling layer.

    Attributes:
        output: (B, T', D) with T' = ceil(T / stride); zero beyond ``lengths``.
        lengths: (B,) int64, ceil(lengths / stride).
        positions: (B, T) float64, where each time step was placed on the segment
            [0, lengths - 1] of output slots, non-decreasing in time; None for methods
            without positions. Padded steps repeat the last valid position. On the
            CPU if the layer's device has no float64 (Apple's ``mps``).
        aux_loss: scalar to be added to the training loss (AdaStride's positioning
            loss), or None.
    """

    output: torch.Tensor
    lengths: torch.Tensor
    positions: Optional[torch.Tensor] = None
    aux_loss: Optional[torch.Tensor] = None


class ChunkedOutput(NamedTuple):
    """The output of :meth:`Downsampler.in_chunks` for one long utterance.

    Attributes:
        output: a function that returns the consecutive chunks (1, t', D) of the
            output at each call.
        lengths, positions, aux_loss: as of a :class:`DownsamplingOutput`.
    """

    output: Frames
    lengths: torch.Tensor
    positions: Optional[torch.Tensor] = None
    aux_loss: Optional[torch.Tensor] = None


#: types of devices without float64; float64 values are then on the CPU
NO_FLOAT64 = {"mps"}


def float64_device(device: torch.device) -> torch.device:
    """Return the device of float64 values for ``device``: itself or the CPU.

    Move a tensor first and convert it then, ``x.to(device).to(torch.float64)``: one
    call with both would convert on the source device.
    """
    return torch.device("cpu") if device.type in NO_FLOAT64 else device


def downsampled_lengths(lengths: Steps, stride: float) -> Steps:
    """Return ceil(lengths / stride), the output length of every method.

    Args:
        lengths: number of time steps, an int or an integer tensor of any shape; or the
            unknown size in an exported program (``torch.SymInt``).
        stride: any real number >= 1.

    Returns:
        An int for an int, an int64 tensor of the same shape for a tensor.
    """
    if isinstance(lengths, torch.SymInt):
        if stride == int(stride):  # which an exporter's solver handles better
            return (lengths + (int(stride) - 1)) // int(stride)
        windows = lengths / stride
        more = math.trunc(windows) + 1  # torch.export cannot write math.ceil
        return more - math.trunc(more - windows)
    if isinstance(lengths, torch.Tensor):
        if stride == int(stride):
            stride = int(stride)
            lengths = lengths.to(torch.int64) + (stride - 1)
            return torch.div(lengths, stride, rounding_mode="floor")
        windows = divided_by_stride(lengths, stride)
        return torch.ceil(windows).to(torch.int64).to(lengths.device)
    return math.ceil(lengths / stride)


def divided_by_stride(steps: torch.Tensor, stride: float) -> torch.Tensor:
    """Return steps / stride, the same float64 numbers as in Python on every device.

    On a GPU, PyTorch divides by a number by multiplying by its reciprocal: 23 / 2.3
    would exceed 10, and its ceiling be one frame too many. Therefore the stride is made
    a tensor, and one that a compiler does not recognise as constant.

    Args:
        steps: whole numbers, a tensor of any shape.
        stride: a real number >= 1.
    """
    # not float32, which would round long lengths
    steps = steps.to(float64_device(steps.device)).to(torch.float64)
    return steps / (0.0 * steps + stride)


def length_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """Return a boolean mask (B, max_length), True at the valid time steps."""
    steps = torch.arange(max_length, device=lengths.device)
    return steps.unsqueeze(0) < lengths.unsqueeze(1)


def zero_padding(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return x (B, T, D) with zeros beyond ``lengths`` (B,), also in place of NaN."""
    # masked_fill, not a product: NaN in the padding must not reach the gradients
    return x.masked_fill(~length_mask(lengths, x.size(1)).unsqueeze(2), 0.0)


def repeat_slots(
    z: torch.Tensor, lengths: torch.Tensor, steps: int, stride: float
) -> torch.Tensor:
    """Upsample by repetition: every step gets the frame of its window.

    Args:
        z: (B, T', D) frames, one per window of ``stride`` steps.
        lengths: (B,) of the result.
        steps: T of the result.
        stride: steps of a window, a real number >= 1.

    Returns:
        (B, T, D), step t being z[floor(t / stride)]; zero beyond ``lengths``.
    """
    if z.size(1) == 0:
        return z.new_zeros(z.size(0), steps, z.size(2))
    times = torch.arange(steps, device=z.device)
    slots = divided_by_stride(times, stride).floor().to(torch.int64)
    slots = slots.clamp(max=z.size(1) - 1)
    return zero_padding(z.index_select(1, slots.to(z.device)), lengths)


def divided_or_nearest(
    x: torch.Tensor,
    weight: torch.Tensor,
    reached: torch.Tensor,
    frames: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Return x / weight, (B, T, D), and the nearest frame for steps not reached.

    Args:
        x: (B, T, D), sums of frames by the weights of every step.
        weight: (B, T, 1), the sum of these weights.
        reached: (B, T, 1), whether it is large enough to divide by.
        frames: (B, T', D).
        positions: (B, T); NaN gives NaN.
    """
    nearest = positions.detach().round().to(torch.int64).to(frames.device)
    # NaN positions would be an index error, which on a GPU ends the process
    nearest = nearest.clamp(0, frames.size(1) - 1)
    nearest = nearest.unsqueeze(2).expand(-1, -1, frames.size(2))
    reached = reached | positions.isnan().unsqueeze(2).to(frames.device)
    # do not divide by zero and mask afterwards: the gradient would be NaN
    divided = x / weight.where(reached, weight.new_ones(()))
    return torch.where(reached, divided, frames.gather(1, nearest))


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return x in float32 if it is in half precision, otherwise unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def checked_lengths(
    lengths: Union[None, torch.Tensor, Sequence[int]],
    x: torch.Tensor,
    steps: Optional[int] = None,
) -> torch.Tensor:
    """Return the lengths of x (B, T, D) as (B,) int64 in [0, T], on its device.

    Args:
        lengths: integers, a tensor or a list; None: T, for every utterance.
        steps: T, if it is not that of x.

    Raises:
        ValueError: for another shape, or numbers that are not integers.
    """
    steps = x.size(1) if steps is None else steps
    if lengths is None:
        return torch.full(x.shape[:1], steps, dtype=torch.int64, device=x.device)
    if not isinstance(lengths, torch.Tensor):
        lengths = list(lengths)
        lengths = torch.tensor(lengths, dtype=None if lengths else torch.int64)
    if lengths.shape != x.shape[:1]:
        raise ValueError(f"lengths must be ({x.size(0)},), got {tuple(lengths.shape)}")
    if (
        lengths.is_floating_point()
        or lengths.is_complex()
        or lengths.dtype is torch.bool
    ):
        raise ValueError(
            f"lengths must be integers (numbers of time steps), got {lengths.dtype}"
        )
    return lengths.to(device=x.device, dtype=torch.int64).clamp(0, steps)


def whole_lengths(
    x: torch.Tensor, stride: float
) -> Tuple[torch.Tensor, torch.Tensor, int]:
    """Return n and m of one whole utterance x (1, n, D), (1,) int64, and m as a size.

    For exported programs: m is computed once, with the sizes.
    """
    width = downsampled_lengths(x.size(1), stride)
    output_lengths = torch.full((1,), width, dtype=torch.int64, device=x.device)
    return checked_lengths(None, x), output_lengths, width


def check_stride(stride: float, integer: bool = False) -> float:
    """Return the stride if it is a real number from 1 to a million (``MAX_STRIDE``).

    Args:
        stride: the user's value.
        integer: it must be whole.

    Raises:
        ValueError: naming the value and what is allowed.
    """
    if isinstance(stride, bool) or not isinstance(stride, numbers.Real):
        raise ValueError(f"stride must be a real number >= 1, got {stride!r}")
    if not (math.isfinite(stride) and stride >= 1):
        why = ": a stride below 1 would upsample the sequence" if stride < 1 else ""
        raise ValueError(f"stride must be a real number >= 1, got {stride}{why}")
    if stride > MAX_STRIDE:
        raise ValueError(
            f"stride must be at most {MAX_STRIDE}, got {stride}: so many frames are "
            "hours of speech, longer than any utterance"
        )
    if integer and stride != int(stride):
        raise ValueError(
            f"this method takes whole strides only, got {stride}; "
            f"{', '.join(Downsampler.any_stride)} support any real stride >= 1"
        )
    return int(stride) if stride == int(stride) else float(stride)


def not_quantized(layer: torch.nn.Linear) -> torch.nn.Linear:
    """Return a layer that dynamic quantization skips: its weight is read directly."""
    setattr(layer, "qconfig", None)  # PyTorch's own opt-out
    return layer


def check_number(
    name: str, value: float, minimum: float = 0.0, inclusive: bool = False
) -> float:
    """Return the value as a float if it is a finite number above ``minimum``.

    Args:
        name: the option, for the message.
        value: the user's value.
        minimum: the limit.
        inclusive: the limit itself is allowed.

    Raises:
        ValueError: naming the option and the value.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and math.isfinite(value):
        if value > minimum or (inclusive and value == minimum):
            return float(value)
    limit = f"at least {minimum:g}" if inclusive else f"above {minimum:g}"
    raise ValueError(f"{name} must be a number {limit}, got {value!r}")


def check_whole(name: str, value: int) -> int:
    """Return the value as an int if it is a whole number >= 1.

    Raises:
        ValueError: naming the option and the value.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    return int(value)


def check_switch(name: str, value: bool) -> bool:
    """Return the value if it is True or False.

    Raises:
        ValueError: naming the option and the value.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


class Downsampler(torch.nn.Module):
    """Base of all methods: checks, zeroes the padding, calls :meth:`downsample`.

    A method subclasses it, implements :meth:`downsample`, sets ``integer_stride`` if
    it cannot resample at a non-integer rate, and gets one line in ``registry.py``:
    docs/adding_a_downsampler.md.

    Args:
        size: D, the number of features.
        stride: overall downsampling rate, a real number >= 1.

    Raises:
        ValueError: if the stride is below 1, or not whole for a method that needs it.
    """

    integer_stride = False

    #: False: the method never reads padded steps, which avoids a copy of x without them
    needs_zero_padding = True

    #: False: a learned filter, which may change a constant
    unit_gain = True

    #: True: the gradient is deliberately not that of the forward
    straight_through = False

    #: name under which ``aux_loss`` is reported and weighted: ``loss_aux`` has the
    #: method's own weight, ``loss_vp`` (positioning losses) that of the input layer
    loss_name = "loss_aux"

    #: True: the output has positions, i.e. where every step was placed
    has_positions = False

    #: True: output lengths depend on the values of x; features that need them in
    #: advance reject the method
    lengths_from_content = False

    #: the part of an utterance on which the weights of its frames depend, for
    #: tables; "nothing": the output is linear in x, up to a constant
    adapts_to = "nothing"

    #: options that the ESPnet input layer uses unless the YAML file overrides them, if
    #: the best form for training is not the published one (the constructor's default)
    training_defaults: Mapping[str, Any] = {}

    def __init__(self, size: int, stride: float):
        super().__init__()
        self.size = check_whole("size", size)
        self.stride = check_stride(stride, integer=self.integer_stride)

    def set_start(self) -> None:
        """Set the parameters that start at values of the method's own, such as scores.

        The constructor calls it; call it after initialising a whole network, which
        would overwrite these values. Here: none.
        """

    #: True: the stride is a parameter, and cannot be set
    learns_stride = False

    #: words of the methods that take every stride, for messages; from the registry
    any_stride: Tuple[str, ...] = ()

    def current_stride(self) -> float:
        """Return the stride in use: the constructor's, unless the method learns it."""
        return self.stride

    def takes_any_stride(self) -> bool:
        """Return whether :meth:`set_stride` supports every real number >= 1."""
        return not (self.integer_stride or self.learns_stride)

    def set_stride(self, stride: float) -> None:
        """Change the rate; the parameters are unchanged.

        Raises:
            ValueError: if the stride is below 1, or the method has a fixed one.
        """
        if not self.takes_any_stride():
            raise ValueError(
                f"{type(self).__name__} is tied to the stride it was built or trained "
                f"with; {', '.join(self.any_stride)} support other strides"
            )
        self.stride = check_stride(stride)

    def output_lengths(self, lengths: Steps) -> Steps:
        """Return ceil(lengths / current stride), for an int or an integer tensor."""
        return downsampled_lengths(lengths, self.current_stride())

    def reported_stats(self) -> Dict[str, Union[float, torch.Tensor]]:
        """Return values to monitor in training, {name: scalar}.

        Meaningful learned values, such as a learned stride. The names must only
        depend on the configuration: all processes of a training report the same ones.
        """
        return {}

    def frame_shift(self) -> float:
        """Return the offset of frames from windows in input steps, for their times.

        Frame l is from l stride + shift to (l + 1) stride + shift. Methods with
        positions do not need it.
        """
        return 0.0

    def forward(
        self,
        x: torch.Tensor,
        lengths: Union[None, torch.Tensor, Sequence[int]] = None,
    ) -> DownsamplingOutput:
        """Downsample a padded batch.

        Args:
            x: (B, T, D), any floating dtype (convolutions and linear layers of other
                methods need their own, or autocast, as in PyTorch); the padding may
                contain anything.
            lengths: (B,) integers in [0, T], a tensor on any device or a list; None:
                all T steps of every utterance. A length above T means T, one below 0
                means 0: checking the values would synchronise with a GPU.

        Returns:
            DownsamplingOutput: ``output`` (B, ceil(T / stride), D) in the dtype of x
            (autocast may lower it).

        Raises:
            ValueError: if the shapes do not match, x is not floating point, or the
                lengths are not integers.
        """
        if x.dim() != 3 or x.size(2) != self.size:
            raise ValueError(
                f"x must be (batch, time, {self.size}), got {tuple(x.shape)}"
            )
        if not x.is_floating_point():  # averages of integers would be cut off
            raise ValueError(f"x must be floating point, got {x.dtype}: use x.float()")
        lengths = checked_lengths(lengths, x)
        if x.size(0) == 0 or x.size(1) == 0:
            empty = x.new_zeros(x.size(0), 0, x.size(2))
            return DownsamplingOutput(empty, torch.zeros_like(lengths))
        if self.needs_zero_padding:
            x = zero_padding(x, lengths)
        return self.downsample(x, lengths, self.output_lengths(lengths))

    def downsample(
        self, x: torch.Tensor, lengths: torch.Tensor, output_lengths: torch.Tensor
    ) -> DownsamplingOutput:
        """Downsample x (B, T, D): the method's implementation.

        The padding is zero already if ``needs_zero_padding``, otherwise it may contain
        anything.
        """
        raise NotImplementedError

    def export_form(
        self, x: torch.Tensor, stride: float
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Downsample one whole utterance with exportable operations.

        Used by ``torch.export`` and ONNX (``exportable.py``): the layer's output in
        evaluation, for any T. The default is :meth:`downsample`. A method that cannot
        be exported (data-dependent sizes, autograd functions, ``embedding_bag``,
        ``searchsorted``) overrides it.

        Args:
            x: (1, T, D), float32; T may be a ``torch.SymInt``.
            stride: :meth:`current_stride` as a number.

        Returns:
            The output (1, T', D), and the positions (1, T) float64 or None.
        """
        lengths, output_lengths, _ = whole_lengths(x, stride)
        result = self.downsample(x, lengths, output_lengths)
        return result.output, result.positions

    def export_inverse(
        self,
        z: torch.Tensor,
        steps: int,
        positions: Optional[torch.Tensor],
        stride: float,
    ) -> torch.Tensor:
        """Upsample one whole utterance with exportable operations.

        Args:
            z: (1, T', D'), float32; T' may be a ``torch.SymInt``.
            steps: T, of the input of :meth:`export_form`; may be a ``torch.SymInt``.
            positions: (1, T) of :meth:`export_form`.
            stride: :meth:`current_stride` as a number.

        Returns:
            (1, T, D'): that of :meth:`upsample`, normalised.
        """
        return self.upsample(z, None, steps, positions)

    def upsample(
        self,
        z: torch.Tensor,
        lengths: Union[None, torch.Tensor, Sequence[int]],
        steps: int,
        positions: Optional[torch.Tensor] = None,
        normalised: bool = True,
    ) -> torch.Tensor:
        """Upsample frames to the layer's input steps: its inverse.

        For decoders. A constant stays constant. The default, for every method
        without a more natural inverse, is repetition over the window.

        Args:
            z: (B, T', D') frames at the layer's output rate, of any width.
            lengths: (B,) of the layer's input, as in :meth:`forward`.
            steps: T of the layer's input, padding included.
            positions: (B, T) of the layer's output; ignored by methods without
                positions.
            normalised: see AdaStride's; ignored by others.

        Returns:
            (B, T, D'), zero beyond ``lengths``.
        """
        lengths = checked_lengths(lengths, z, steps)
        return repeat_slots(z, lengths, steps, self.current_stride())

    def in_chunks(self, frames: Frames, length: int) -> ChunkedOutput:
        """Downsample one utterance that is too long for memory, without gradients.

        Args:
            frames: returns the utterance's consecutive chunks (1, t, D), and returns
                them again when called again: methods with positions read them twice.
            length: n, the steps of all chunks together, >= 1.

        Returns:
            ChunkedOutput: as for a batch of one, but ``output`` is a function that
            returns consecutive chunks (1, t', D), like ``frames``. A method without
            its own implementation reads all chunks at once.
        """

        @torch.no_grad()
        def output():
            whole = torch.cat(list(frames()), dim=1)
            yield self(whole, torch.tensor([length])).output

        return ChunkedOutput(output, torch.tensor([self.output_lengths(length)]))

    def extra_repr(self) -> str:
        """Show size and stride when the model is printed."""
        return f"size={self.size}, stride={self.stride}"
