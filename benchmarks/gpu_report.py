"""The tables of a file of measurements on a GPU. A part of gpu_kit.py."""

from pathlib import Path

#: as layer cells are named: layer/MODE/DTYPE/T4000/METHOD[/triton0]
REFERENCE, COPY = "avg_pool", "copy"


def table(head, rows):
    """Return the lines of a Markdown table; without the package, not yet installed."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def number(value, digits=2):
    """Return a number in so many decimals, nothing for None, "nan" as it is."""
    if isinstance(value, str):
        return value
    return "" if value is None else f"{value:.{digits}f}"


def ratio(value, other, digits=2):
    """Return value / other, or nothing."""
    return number(value / other, digits) if value and other else ""


def shown(method, switch):
    """Return a layer's name in a table."""
    return f"{method}, Triton" if switch == "triton1" else method


def layer_cells(records):
    """Return {(mode, dtype, T): {name in the table: cell}}."""
    found = {}
    for name, cell in records.cells.items():
        kind, *rest = name.split("/")
        if kind == "layer":
            mode, dtype, steps, method, *switch = rest
            place = found.setdefault((mode, dtype, int(steps[1:])), {})
            place[shown(method, *(switch or [""]))] = cell
    return found


def layer_lines(records):
    """Return the tables of the layers, one a mode and dtype."""
    found, lines = layer_cells(records), []
    modes = {"eager": "as PyTorch runs them", "graph": "recorded as CUDA graphs"}
    modes["compile"] = "compiled by torch.compile"
    for mode, words in modes.items():
        for dtype in ("float32", "bfloat16"):
            all_steps = sorted(t for m, d, t in found if (m, d) == (mode, dtype))
            if not all_steps:
                continue
            lines += ["", f"### Layers {words}, {dtype}", ""]
            head = ["T", "layer", "forward ms", "forward + backward ms", "wall ms"]
            head += ["/ avg_pool", "/ copy", "peak / x", "saved / x", "kernels"]
            rows = []
            for steps in all_steps:
                here = found[mode, dtype, steps]
                # a graph or a compiled layer is compared with the same of avg_pool;
                # the copy is one kernel and measured once
                copies = found.get(("eager", dtype, steps), {}).get(COPY, {})
                pooled = here.get(REFERENCE, {}).get("both_ms")
                for name, cell in here.items():
                    if "error" in cell:
                        rows.append([steps, name, cell["error"], *[""] * 7])
                        continue
                    both = cell["both_ms"]
                    rows.append(
                        [
                            steps,
                            name,
                            number(cell["forward_ms"], 3),
                            number(both, 3),
                            number(cell["both_wall_ms"], 3),
                            ratio(both, pooled),
                            ratio(both, copies.get("both_ms")),
                            number(cell.get("peak_over_x")),
                            number(cell.get("saved_over_x")),
                            cell.get("both_kernels", ""),
                        ]
                    )
            lines += table(head, rows)
    return lines


def step_lines(records):
    """Return the table of the training steps."""
    rows, about = [], {}
    for name, cell in records.cells.items():
        kind, *rest = name.split("/")
        if kind != "step":
            continue
        rate, method, *switch = rest
        label = shown(method, *(switch or [""]))
        if "error" in cell:
            rows.append([rate, label, cell["error"], *[""] * 7])
            continue
        about = cell
        stock = records.value(f"step/{rate}/conv2d", "step_ms")
        pooled = records.value(f"step/{rate}/avg_pool", "step_ms")
        rows.append(
            [
                rate,
                label,
                number(cell["step_ms"], 1),
                number(cell["step_wall_ms"], 1),
                ratio(cell["step_ms"], stock, 3),
                ratio(cell["step_ms"], pooled, 3),
                number(cell["layer_ms"], 1),
                f"{100 * cell['layer_share']:.1f} %",
                number(cell["peak_gib"]),
                cell["kernels"],
            ]
        )
    if not rows:
        return []
    head = ["rate", "input layer", "step ms", "wall ms", "/ conv2d", "/ avg_pool"]
    head += ["layer ms", "layer's share", "peak GiB", "kernels"]
    words = ""
    if about:
        words = (
            f"conf/train_asr_conformer.yaml; a step is {about['batches']} batches of "
            f"{about['utterances']} utterances, {about['seconds_of_speech']:g} s of "
            f"speech; AMP: {about['amp']}."
        )
    rows.sort(key=lambda row: row[0])
    return [
        "",
        "### A training step of the published Conformer",
        "",
        words,
        "",
        *table(head, rows),
    ]


def train_lines(records):
    """Return the table of the trainings."""
    plan, rows = records.cells.get("train/updates", {}), []
    for name, cell in records.cells.items():
        kind, *rest = name.split("/")
        if kind != "train" or len(rest) != 2:
            continue
        rate, method = rest
        if "error" in cell:
            rows.append([method, rate, cell["error"], *[""] * 7])
            continue
        stats = cell["stats"]
        rows.append(
            [
                method,
                rate,
                number(cell["wer"], 1),
                number(cell["cer"], 1),
                f"{cell['substitutions']} / {cell['deletions']} / {cell['insertions']}",
                cell["updates"],
                number(cell["hours_of_speech"], 1),
                number(cell["seconds"], 0),
                number(cell["peak_gib"]),
                number(stats.get("stride_entropy"), 3),
            ]
        )
    if not rows:
        return []
    head = ["input layer", "rate", "WER %", "CER %", "S / D / I", "updates"]
    head += ["hours seen", "seconds", "peak GiB", "stride entropy"]
    lines = ["", "### Short trainings, one seed", ""]
    if plan and "error" not in plan:
        lines += [
            f"{plan['hours']:g} h of speech, {plan['dev_utterances']} dev utterances; "
            f"greedy CTC, the same {plan['updates']} updates for all; seconds of one: "
            + ", ".join(f"{k} {v:g}" for k, v in plan["seconds_an_update"].items())
            + ".",
            "",
        ]
    lines += table(head, rows)
    pairs = []
    for rate in ("4x", "8x"):
        ours = records.cells.get(f"train/{rate}/adastride", {})
        theirs = records.cells.get(f"train/{rate}/strided_conv", {})
        if "errors" in ours and "errors" in theirs:
            pairs.append(paired_line(rate, ours, theirs))
    return lines + ([""] + pairs if pairs else [])


def paired_line(rate, ours, theirs, draws=2000):
    """Return a line on the difference in WER, with a bootstrap over utterances."""
    import numpy as np

    names = sorted(ours["errors"])
    differences = np.array([ours["errors"][n] - theirs["errors"][n] for n in names])
    random = np.random.default_rng(0)
    picks = random.integers(0, len(names), (draws, len(names)))
    # the number of words is taken for the same in every draw
    drawn = 100 * differences[picks].sum(axis=1) / ours["words"]
    low, high = np.percentile(drawn, [2.5, 97.5])
    middle = 100 * differences.sum() / ours["words"]
    return (
        f"- {rate}: adastride - strided_conv = {middle:+.2f} points of WER "
        f"[{low:+.2f}, {high:+.2f}] (95 %, bootstrap over {len(names)} utterances; one "
        "seed each, and seeds differ by more)"
    )


def test_lines(records):
    """Return the table of the tests, and their failures."""
    rows, failures = [], []
    for name, cell in records.cells.items():
        kind, *rest = name.split("/")
        if kind != "tests":
            continue
        words = "with Triton kernels" if rest[0] == "triton1" else "without"
        counts = [cell.get(k, "") for k in ("passed", "failed", "errors", "skipped")]
        rows.append([words, *counts, "yes" if cell.get("cut_off") else ""])
        for test, reason in cell.get("failures", {}).items():
            failures.append(f"- `{test}` ({words}): {reason}")
    if not rows:
        return []
    head = ["Triton", "passed", "failed", "errors", "skipped", "cut off"]
    return ["", "### Tests on the GPU", "", *table(head, rows), "", *failures]


def write_report(records, path):
    """Write the Markdown file of a file of measurements."""
    machine = records.content["machine"]
    ceilings = records.cells.get("facts/ceilings", {})
    lines = ["# Measured on a GPU", ""]
    if machine.get("gpu") is None:
        lines += ["**A dry run on a CPU: no number here means anything.**", ""]
    facts = {**machine, **ceilings}
    facts.pop("took", None)
    lines += table(["machine", ""], facts.items())
    for make in (test_lines, layer_lines, step_lines, train_lines):
        lines += make(records)
    notes = records.content["notes"]
    if notes:
        lines += ["", "### Not measured", ""]
        lines += [f"- {about}: {line}" for about, line in notes.items()]
    lines += ["", "What each number means: docs/gpu_kit.md.", ""]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
