"""What a trained VQ-VAE keeps of speech, and at what rate; methods side by side.

* **error**: mean absolute and root mean square difference of log-mels, in dB, over
  valid frames and mel bins of the test set;
* **codebook perplexity**: exp of the entropy of the codes on the test set;
* **bits per second**: tokens a second times log2 K (``bits``), or times the entropy of
  the codes (``entropy_bits``: what an ideal code that knows their frequencies takes);
* **side information** (``side_bits``): what the decoder must be told beside the tokens.
  Methods with positions send the number of steps of every slot, for every stage:
  slots a second times the entropy of these numbers on the test set. ``error`` is that
  of a decoder that knows no more than this; ``error_exact`` has the encoder's real
  positions, which no finite number of bits can send.

Entropies are of order 0 and of the test set itself: a real coder would need a little
more (it must know the frequencies) or less (it may look at the neighbours).
"""

import base64
import html
import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure

from espnet_adastride.comparison import Bootstrap, holm, seed_interval, verdict
from espnet_adastride.figures import drawing, line_style
from espnet_adastride.plotting import save_figure
from espnet_adastride.recipe.errors import RecipeError
from espnet_adastride.strides import (
    compose_boundaries,
    slot_boundaries,
    uniform_boundaries,
)
from espnet_adastride.vqvae import (
    DECIBEL,
    VQVAE,
    LogMel,
    Stage,
    durations,
    perplexity,
    with_coded_positions,
)

RESULT = "result.json"


def entropy(values: Sequence[int]) -> float:
    """Return the entropy of a list of whole numbers, in bits a number; 0 for none."""
    _, counts = np.unique(np.asarray(values, dtype=np.int64), return_counts=True)
    shares = counts / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) if len(counts) else 0.0


class Reconstruction:
    """One utterance through a model, alone.

    Attributes:
        frames: (T, F) natural log-mels of the recording.
        rebuilt: (T, F) by a decoder that knows tokens and durations.
        exact: (T, F) by one that knows the true positions.
        tokens: (T',).
        stages: of a batch of one.
    """

    @torch.no_grad()
    def __init__(self, features: LogMel, network: VQVAE, wave: torch.Tensor):
        length = torch.tensor([len(wave)])
        frames, lengths = features(wave.unsqueeze(0), length)
        encoded = network.encode(frames, lengths)
        self.tokens, self.stages = encoded.tokens[0], encoded.stages
        # what is decoded are the tokens, as a receiver has them
        codes = network.codes(encoded.tokens)
        exact = network.decode(codes, encoded.lengths, encoded.stages)
        rebuilt = exact
        if any(stage.positions is not None for stage in self.stages):
            known = with_coded_positions(self.stages)
            rebuilt = network.decode(codes, encoded.lengths, known)
        self.frames, self.rebuilt, self.exact = frames[0], rebuilt[0], exact[0]

    def durations(self) -> List[List[int]]:
        """Return the numbers that are sent of each stage; [] where there are none."""
        return [
            (
                []
                if stage.positions is None
                else durations(
                    stage.positions[0], int(stage.lengths), int(stage.output_lengths)
                ).tolist()
            )
            for stage in self.stages
        ]

    def boundaries(self) -> np.ndarray:
        """Return where the tokens begin and end, (T' + 1,) in frames."""
        return compose_boundaries([_stage_boundaries(stage) for stage in self.stages])


def _stage_boundaries(stage: Stage) -> np.ndarray:
    n, m = int(stage.lengths), int(stage.output_lengths)
    if stage.positions is not None:
        return slot_boundaries(stage.positions[0].numpy(), n, m)
    shift = (1 - stage.stride) / 2
    if stage.layer is not None:
        shift = stage.layer.frame_shift()
    return uniform_boundaries(n, m, stage.stride, shift)


def measure(features: LogMel, network: VQVAE, recordings) -> Dict[str, Any]:
    """Return the figures at the file's top for some recordings.

    Args:
        features: the model's.
        network: in evaluation mode.
        recordings: of ``recordings.read_set``.

    Returns:
        ``tokens_per_second``, ``perplexity``, ``bits``, ``entropy_bits``,
        ``side_bits`` and ``side_bits_per_stage``, ``error``, ``rms_error``,
        ``error_exact`` and, of every recording, ``utterances`` {id: {frames, error,
        group}}.
    """
    utterances, tokens, told = {}, [], []
    sums = dict.fromkeys(("absolute", "squares", "exact", "values"), 0.0)
    seconds = 0.0
    for recording in recordings:
        wave = torch.from_numpy(read_wave(recording.path, features.fs))
        one = Reconstruction(features, network, wave)
        difference = (one.rebuilt - one.frames).double() * DECIBEL
        exact = (one.exact - one.frames).double() * DECIBEL
        sums["absolute"] += float(difference.abs().sum())
        sums["squares"] += float(difference.square().sum())
        sums["exact"] += float(exact.abs().sum())
        sums["values"] += difference.numel()
        seconds += len(wave) / features.fs
        tokens.append(one.tokens)
        told.append(one.durations())
        utterances[recording.id] = {
            "frames": len(one.frames),
            "error": float(difference.abs().mean()),
            "group": recording.group,
        }
    if not utterances:
        raise RecipeError("no recording to reconstruct")
    all_tokens = torch.cat(tokens)
    rate = len(all_tokens) / seconds
    codes = perplexity(all_tokens, network.codebook_size)
    stages = [[n for own in stage for n in own] for stage in zip(*told)]
    side = [len(stage) * entropy(stage) / seconds for stage in stages]
    return {
        "codebook_size": network.codebook_size,
        "tokens_per_second": rate,
        "perplexity": codes,
        "codes_used": int(len(all_tokens.unique())),
        "bits": rate * math.log2(network.codebook_size),
        "entropy_bits": rate * math.log2(codes),
        "side_bits": sum(side),
        "side_bits_per_stage": side,
        "error": sums["absolute"] / sums["values"],
        "rms_error": math.sqrt(sums["squares"] / sums["values"]),
        "error_exact": sums["exact"] / sums["values"],
        "seconds_of_speech": seconds,
        "utterances": utterances,
    }


def read_wave(path, rate: int) -> np.ndarray:
    """Return samples (N,) of a prepared recording.

    Raises:
        RecipeError: it does not decode or has another rate.
    """
    try:
        wave, found = soundfile.read(path, dtype="float32")
    except (soundfile.SoundFileError, OSError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: cannot be decoded ({reason})") from None
    if found != rate or wave.ndim != 1:
        raise RecipeError(f"{path}: not one channel at {rate} Hz; prepare it again")
    return wave


# -------------------------------------------------------------------------- listening


def listen(features: LogMel, network: VQVAE, recordings, folder) -> None:
    """Write ID.wav, ID.original.wav, ID.vocoder.wav and ID.png of some recordings.

    ``vocoder``: the recording's own log-mels through Griffin-Lim, which is the best
    that a reconstruction can sound here.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for recording in recordings:
        wave = torch.from_numpy(read_wave(recording.path, features.fs))
        one = Reconstruction(features, network, wave)
        sounds = {
            "": features.invert(one.rebuilt, len(wave)),
            ".original": wave,
            ".vocoder": features.invert(one.frames, len(wave)),
        }
        for kind, sound in sounds.items():
            soundfile.write(
                folder / f"{recording.id}{kind}.wav", sound.numpy(), features.fs
            )
        picture = plot_reconstruction(one, features.fs / features.hop_length)
        save_figure(picture, folder / f"{recording.id}.png", dpi=80)


def plot_reconstruction(one: Reconstruction, frame_rate: float) -> Figure:
    """Draw the recording with its tokens' boundaries over its reconstruction."""
    own = one.frames.numpy() * DECIBEL
    low, high = np.percentile(own, [5, 99.8])
    extent = (0.0, len(own) / frame_rate, 0, own.shape[1])
    with drawing(9.0, 4.0, layout="constrained") as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, values, name in (
            (upper, own, "recording"),
            (lower, one.rebuilt.numpy() * DECIBEL, "reconstruction"),
        ):
            axes.imshow(
                values.T,
                origin="lower",
                aspect="auto",
                extent=extent,
                vmin=low,
                vmax=high,
                cmap="magma",
            )
            axes.set_ylabel(f"{name}\nmel bin")
        upper.vlines(one.boundaries() / frame_rate, 0, own.shape[1], color="w", lw=0.6)
        lower.set_xlabel("seconds; white: where a token begins")
    return figure


def page(runs: List[Dict[str, Any]], folders: List[Path]) -> str:
    """Return the listening page, one HTML file that holds sounds and pictures.

    Args:
        runs: results, one a row.
        folders: of what :func:`listen` wrote, one a run.
    """
    names = sorted(p.stem for folder in folders for p in folder.glob("*.png"))
    parts = [
        "<!DOCTYPE html><html lang='en'><meta charset='utf-8'>",
        "<title>Discrete representations of speech</title>",
        "<style>body{font:15px sans-serif;max-width:62em;margin:2em auto;padding:0 1em}"
        "img{max-width:100%}td,th{padding:.2em .8em .2em 0;text-align:left;"
        "vertical-align:middle}audio{width:15em}</style>",
        "<h1>Discrete representations of speech</h1>",
        "<p>Tokens of a VQ-VAE, decoded to log-mel frames and made audible by "
        "Griffin-Lim, which guesses the phases: compare with <em>its best</em>, the "
        "recording's own frames through the same. Methods with adaptive strides are "
        "decoded from tokens and durations.</p>",
    ]
    for name in dict.fromkeys(names):
        parts.append(f"<h2>{html.escape(name)}</h2><table>")
        first = next(f for f in folders if (f / f"{name}.png").is_file())
        for kind, what in (("original", "recording"), ("vocoder", "its best")):
            parts.append(
                f"<tr><th>{what}<td>{_audio(first / f'{name}.{kind}.wav')}<td></tr>"
            )
        shown = []
        for run, folder in zip(runs, folders):
            if not (folder / f"{name}.png").is_file():
                continue
            told = html.escape(run_title(run))
            bits = f"{run['bits']:.0f} + {run['side_bits']:.0f} bit/s"
            parts.append(
                f"<tr><th>{told}<td>{_audio(folder / f'{name}.wav')}<td>{bits}, "
                f"{run['error']:.2f} dB over the test set</tr>"
            )
            data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
            shown.append(
                f"<p>{told}<br><img alt='{told}' src='data:image/png;base64,{data}'>"
            )
        parts += ["</table>", *shown]
    return "\n".join(parts) + "\n</html>\n"


def _audio(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<audio controls preload='none' src='data:audio/wav;base64,{data}'></audio>"


def run_title(run: Dict[str, Any]) -> str:
    """Return e.g. ``adastride 8x, seed 0``."""
    return f"{run['method']} {run['rate']:g}x, seed {run['seed']}"


# -------------------------------------------------------------------------- the table


def read_runs(folder) -> List[Dict[str, Any]]:
    """Read the finished runs of an experiment, by rate, method and seed.

    Raises:
        RecipeError: there is none, or they were tested on different recordings.
    """
    runs, tested = [], None
    for path in sorted(Path(folder).glob(f"*/{RESULT}")):
        run = json.loads(path.read_text(encoding="utf-8"))
        tested = tested or set(run["utterances"])
        if tested != set(run["utterances"]):
            raise RecipeError(
                f"{path}: tested on other recordings than those beside it"
            )
        runs.append({**run, "folder": path.parent})
    if not runs:
        raise RecipeError(f"{folder}: no finished run (*/{RESULT}) in it")
    return sorted(runs, key=lambda r: (r["rate"], r["method"], r["seed"]))


def _spread(values, digits=2) -> str:
    text = f"{mean(values):.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def format_table(
    runs: List[Dict[str, Any]], reference: str, resamples: int = 10000
) -> str:
    """Return Markdown: figures of every method and rate, then paired differences.

    Args:
        runs: of :func:`read_runs`.
        reference: method that others are compared with at the same rate.
        resamples: of the bootstrap.
    """
    cells: Dict[Any, List[Dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault((run["rate"], run["method"]), []).append(run)
    order = sorted(cells, key=lambda k: (k[0], k[1] != reference, k[1]))
    lines = [
        "| rate | method | seeds | error, dB | RMS, dB | with exact positions, dB "
        "| perplexity | tokens/s | bit/s | side bit/s | together | entropy-coded, "
        f"together | `{reference}` at as many bits, dB | minutes |",
        "|" + "---|" * 14,
    ]
    curve = _error_over_bits(
        [own for (_, method), own in cells.items() if method == reference]
    )
    for rate, method in order:
        own = cells[rate, method]

        def column(name, digits=2):
            return _spread([run[name] for run in own], digits)

        together = [run["bits"] + run["side_bits"] for run in own]
        coded = [run["entropy_bits"] + run["side_bits"] for run in own]
        row = [f"{rate:g}x", f"`{method}`", ", ".join(str(r["seed"]) for r in own)]
        row += [column("error"), column("rms_error")]
        told = any(run["side_bits"] > 0 for run in own)
        row += [column("error_exact") if told else ""]
        row += [column("perplexity", 0), column("tokens_per_second", 1)]
        row += [column("bits", 0), column("side_bits", 0), _spread(together, 0)]
        at_equal_bits = curve(mean(together)) if method != reference else float("nan")
        row += [_spread(coded, 0)]
        row += ["" if math.isnan(at_equal_bits) else f"{at_equal_bits:.2f}"]
        row += [_spread([r["minutes"] for r in own], 1)]
        lines.append("| " + " | ".join(row) + " |")
    first = runs[0]
    groups = {u["group"] for u in first["utterances"].values()}
    lines += [
        "",
        f"{len(first['utterances'])} test recordings of {len(groups)} texts or files, "
        f"{first['seconds_of_speech'] / 60:.1f} minutes, none of whose texts is in the "
        f"training; codebook of {first['codebook_size']}. Mean ± standard deviation "
        "over seeds. Error: mean absolute difference of log-mels, by a decoder that "
        "knows tokens and, where strides adapt, the number of steps of every slot: "
        "the *side bits*, by their entropy. *With exact positions*: the encoder's real "
        "numbers, which cannot be sent. **Methods of one rate have equal token rates, "
        "not equal bits: where strides adapt, compare with "
        f"`{reference}` at as many bits**: between its rates, by the logarithm of the "
        "bits.",
        "",
        *_differences(cells, order, reference, resamples),
    ]
    return "\n".join(lines) + "\n"


def _error_over_bits(rates: List[List[Dict[str, Any]]]) -> Callable[[float], float]:
    """Return a method's error over bits a second, between its rates; NaN beyond.

    Args:
        rates: the method's runs, a list for each rate.
    """
    points = sorted(
        (
            mean(math.log2(run["bits"] + run["side_bits"]) for run in own),
            mean(run["error"] for run in own),
        )
        for own in rates
    )

    def error(bits: float) -> float:
        if not points:
            return float("nan")
        known, errors = zip(*points)
        place = math.log2(bits)
        return float(np.interp(place, known, errors, left=np.nan, right=np.nan))

    return error


def plot_bits(runs: List[Dict[str, Any]]) -> Figure:
    """Draw error over bits a second, a line for each method.

    Marks are means over seeds, bars the lowest and the highest seed, numbers the rates.
    Where the decoder must be told durations, these bits count, and a dotted line shows
    what the tokens alone would be.

    Returns:
        A figure for ``save_figure``.
    """
    cells: Dict[str, Dict[float, List[Dict[str, Any]]]] = {}
    for run in runs:
        cells.setdefault(run["method"], {}).setdefault(run["rate"], []).append(run)
    with drawing(6.6, 4.4, layout="constrained") as figure:
        axes = figure.add_subplot()
        for number, (method, rates) in enumerate(sorted(cells.items())):
            style = line_style(number)
            errors = [[run["error"] for run in own] for own in rates.values()]
            centre = np.array([mean(own) for own in errors])
            reach = np.abs(np.array([[min(e), max(e)] for e in errors]).T - centre)
            tokens = [mean(run["bits"] for run in own) for own in rates.values()]
            side = [mean(run["side_bits"] for run in own) for own in rates.values()]
            together = np.add(tokens, side)
            axes.errorbar(together, centre, reach, capsize=3, label=method, **style)
            if max(side) > 0:
                alone = {**style, "marker": "", "ls": ":", "lw": 1.2}
                axes.plot(tokens, centre, **alone)
            for rate, x, y in zip(rates, together, centre):
                axes.annotate(
                    f"{rate:g}x",
                    (x, y),
                    xytext=(5, 5),
                    textcoords="offset points",
                    size=8,
                    color=style["color"],
                )
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [tick for tick in 25 * 2 ** np.arange(10) if low <= tick <= high]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("bits a second; dotted: tokens without durations")
        axes.set_ylabel("error of log-mels, dB")
        axes.grid()
        figure.legend(loc="outside upper center", ncols=min(len(cells), 4))
    return figure


def _differences(cells, order, reference, resamples) -> List[str]:
    rows, p_values = [], []
    bootstrap, ids = None, None
    for rate, method in order:
        base = {run["seed"]: run for run in cells.get((rate, reference), [])}
        own = {run["seed"]: run for run in cells[rate, method]}
        seeds = sorted(set(base) & set(own))
        if method == reference or not seeds:
            continue
        if bootstrap is None:
            utterances = own[seeds[0]]["utterances"]
            ids = sorted(utterances)
            frames = np.array([utterances[i]["frames"] for i in ids], dtype=float)
            bootstrap = Bootstrap([utterances[i]["group"] for i in ids], resamples)

        def errors(runs):
            # Bootstrap.difference is in hundredths
            return np.array(
                [
                    [runs[s]["utterances"][i]["error"] / 100.0 for i in ids] * frames
                    for s in seeds
                ]
            )

        difference = bootstrap.difference(errors(own), errors(base), frames)
        over_seeds = seed_interval(
            [own[s]["error"] for s in seeds], [base[s]["error"] for s in seeds]
        )
        rows.append((rate, method, len(seeds), difference, over_seeds))
        p_values.append(difference.p)
    if not rows:
        return [f"No rate has both `{reference}` and another method yet."]
    lines = [
        f"| rate | method minus `{reference}` | seeds | error, dB | over texts | "
        "p, Holm | over seeds | verdict, bits aside |",
        "|" + "---|" * 8,
    ]
    for (rate, method, seeds, d, over_seeds), p in zip(rows, holm(p_values)):
        interval = "[{:+.2f}, {:+.2f}]".format
        row = [f"{rate:g}x", f"`{method}`", str(seeds), f"{d.value:+.2f}"]
        row += [interval(d.low, d.high), f"{p:.3f}" if p >= 0.001 else "< 0.001"]
        row += [interval(*over_seeds) if over_seeds else "", verdict(d, p, over_seeds)]
        lines.append("| " + " | ".join(row) + " |")
    return [
        *lines,
        "",
        f"Paired bootstrap over texts ({resamples} test sets; the readings of a text "
        "and the seeds of a recording kept together), negative is better; p corrected "
        f"for {len(rows)} comparisons; over seeds: Welch's 95 % interval.",
    ]
