"""The page about a planned training: its sets, what a step and an epoch cost."""

from statistics import median
from typing import List, Optional, Sequence

from espnet_adastride.evaluation.plan import (
    Measured,
    ModelCost,
    SetLengths,
    epoch_seconds,
    memory_words,
    percent_of,
)
from espnet_adastride.files import PathLike, write_text
from espnet_adastride.progress import format_span
from espnet_adastride.report.tables import markdown_table, short_count


def set_table(sets: Sequence[SetLengths], limit: int) -> str:
    """Return the table of the sets, a column each."""

    def share(keys, lengths):
        if not keys:
            return "0"
        return f"{len(keys)} ({percent_of(len(keys) / len(lengths.samples))})"

    def sizes(lengths):
        counts = [len(b) for b in lengths.batches]
        return f"{min(counts)} / {median(counts):g} / {max(counts)}"

    rows = [
        ("utterances", lambda s: f"{len(s.samples)}"),
        ("hours", lambda s: f"{s.seconds / 3600:.2f}"),
        (
            "frames a second behind the input layer",
            lambda s: f"{sum(s.frames.values()) / s.seconds:.1f}",
        ),
        (
            f"too short for the input layer (< {limit} frames)",
            lambda s: share(s.too_short(limit), s),
        ),
        (
            "CTC cannot align (frames < labels + repeats)",
            lambda s: share(s.unalignable(), s) if s.needed else "no CTC",
        ),
        ("batches", lambda s: f"{len(s.batches)}"),
        ("utterances a batch, least / median / most", sizes),
        ("padding", lambda s: percent_of(s.padding())),
    ]
    cells = [[words, *map(say, sets)] for words, say in rows]
    return markdown_table(["", *(s.name for s in sets)], cells)


def block_line(model: ModelCost, features: float) -> str:
    """Return the line on the rate of every block.

    Args:
        model: With ``block_strides``.
        features: A second, before the input layer.
    """
    parts, start = [], 0
    strides = list(model.block_strides)
    for end in range(1, len(strides) + 1):
        if end < len(strides) and strides[end] == strides[start]:
            continue
        blocks = f"block {end}" if end == start + 1 else f"blocks {start + 1} to {end}"
        parts.append(f"{features / strides[start]:.3g} in {blocks}")
        start = end
    line = f"- frames a second: {', '.join(parts)}"
    if model.restored is not None:
        line += f"; restored to {features / model.restored:.3g} for CTC and decoder"
    return line


def cost_lines(
    sets: Sequence[SetLengths],
    model: ModelCost,
    measured: Measured,
    batches: Optional[int] = None,
) -> List[str]:
    """Return the lines on the model and on what a step and an epoch cost.

    Args:
        sets: Training, then validation.
        measured: The steps.
        batches: Training batches an epoch, if not all (``num_iters_per_epoch``).
    """
    lines = [
        f"- model: {model.words}: {short_count(model.parameters)} parameters, "
        f"{short_count(model.layer_parameters)} of them in the input layer"
    ]
    if model.macs is not None:
        whole, layer = (n / model.seconds for n in (model.macs, model.layer_macs))
        lines.append(
            f"- multiply-accumulates a second of audio: {short_count(whole)}, "
            f"{short_count(layer)} of them in the input layer "
            f"(forward of an utterance of {model.seconds:.1f} s; FLOPs are twice that)"
        )
    if model.block_strides:
        features = sum(sets[0].features.values()) / sets[0].seconds
        lines.append(block_line(model, features))
    steps = measured.steps
    if not steps:
        lines.append(f"- time and memory: not measured ({measured.device})")
        return lines
    for words, step in zip(("a median batch", "the largest batch"), steps):
        how = "measured"
        if step.measured < 1:
            how = f"extrapolated from {percent_of(step.measured)} of it"
        lines.append(
            f"- {words}, {step.padded / sets[0].rate:.0f} s of audio: "
            f"{step.seconds:.2f} s, {memory_words(step.peak)} ({how})"
        )
    train = epoch_seconds(sets[0].padded(), steps)
    if batches is not None:
        train *= batches / len(sets[0].batches)
    whole = train + sum(epoch_seconds(s.padded(), steps) for s in sets[1:]) / 3
    lines.append(
        f"- an epoch: about {format_span(whole)} on {measured.device} (by the line "
        "through these steps, validation at a third of them; reading of data not "
        "counted)"
    )
    return lines


def write_plan(
    path: Optional[PathLike],
    title: str,
    table: str,
    costs: Sequence[str],
    warnings: Sequence[str],
) -> str:
    """Write the page (Markdown) and return it; ``path`` None: only return it."""
    lines = [f"# Plan of {title}", "", table, *costs]
    if warnings:
        lines += ["", *(f"- warning: {line}" for line in warnings)]
    text = "\n".join(lines) + "\n"
    if path:
        write_text(path, text)
    return text
