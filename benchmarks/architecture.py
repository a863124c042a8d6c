"""Draw docs/architecture.png: the folders of the package, and the path of an utterance.

python benchmarks/architecture.py [--output docs/architecture.png]
"""

import argparse
from pathlib import Path

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from espnet_adastride.report.style import COLOURS, GREY, INK, drawing

ROOT = Path(__file__).resolve().parents[1]

#: from what knows nothing of the rest to what may import everything: folder, content
FOLDERS = (
    (("downsampling", "the methods, torch only"),),
    (
        ("networks", "residual network,\nVQ-VAE, model files"),
        ("timing", "frames to seconds,\ntranscripts"),
    ),
    (
        ("corpora", "audio, Kaldi\nfolders, corpora"),
        ("evaluation", "error rates,\npaired tests"),
    ),
    (("report", "pictures, pages, tables"),),
    (("deployment", "models without ESPnet: ONNX"),),
    (("plugin", "the ESPnet side: trunk, stages, encoders, true times"),),
    (
        ("experiments", "grids, runs,\nrecords"),
        ("recipe", "data, stamps,\njobs of egs/asr.sh"),
    ),
    (("bin", "one command per file: adastride COMMAND"),),
)

#: what an utterance is at each step, and the file that makes it
PATH = (
    ("recording", "corpora/recordings.py, audio.py", "any format to samples"),
    ("log-mel frames", "ESPnet's frontend", "(B, T, 80), 100 per second"),
    ("trunk", "plugin/trunk.py, subsampling.py", "convolutions: (B, T, D)"),
    (
        "downsampler",
        "downsampling/adastride.py",
        "positions, then T' = ceil(T / stride)",
    ),
    ("encoder", "plugin/encoders.py, ESPnet's blocks", "(B, T', D)"),
    ("CTC, decoder, search", "ESPnet; plugin/trained.py", "tokens on frames"),
    ("true times", "plugin/frame_times.py, timing/ctc.py", "frames to seconds"),
    ("transcript", "timing/transcripts.py", "text, JSON, SRT, VTT, CTM"),
)


def box(axes, x, y, width, height, colour):
    """Draw a rounded box with its lower left corner at (x, y)."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=colour + "22",
            edgecolor=colour,
            linewidth=1.0,
        )
    )


def arrow(axes, start, end, colour=GREY):
    """Draw an arrow between two points."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, color=colour, shrinkA=0
        )
    )


def draw_folders(axes):
    """Draw the folders, each importing from its own row and those below."""
    title = "Folders: each imports only from its own row and those below"
    axes.set_title(title, loc="left")
    for row, folders in enumerate(FOLDERS):
        width = (10 - 0.3 * (len(folders) - 1)) / len(folders)
        for place, (name, text) in enumerate(folders):
            x = place * (width + 0.3)
            box(axes, x, row, width, 0.78, COLOURS[row % 5])
            axes.text(x + 0.2, row + 0.39, f"{name}/", va="center", weight="bold")
            axes.text(
                x + width - 0.2, row + 0.39, text, va="center", ha="right", fontsize=8
            )
        if row:
            arrow(axes, (5, row), (5, row - 0.22))
    axes.set_xlim(-0.1, 10.1)


def draw_path(axes):
    """Draw what happens to an utterance, from top to bottom."""
    axes.set_title("From waveform to text", loc="left")
    for number, (name, file, text) in enumerate(PATH):
        row = len(PATH) - 1 - number
        colour = COLOURS[1] if name == "downsampler" else INK
        box(axes, 0, row, 10, 0.78, colour)
        axes.text(0.2, row + 0.53, name, va="center", weight="bold")
        axes.text(9.8, row + 0.53, text, va="center", ha="right", fontsize=8)
        axes.text(0.2, row + 0.2, file, va="center", fontsize=8, family="monospace")
        if row:
            arrow(axes, (5, row), (5, row - 0.22))
    axes.set_xlim(-0.1, 10.1)


def draw():
    """Return the figure."""
    with drawing(12, 6.2, layout="constrained") as figure:
        for axes, paint in zip(figure.subplots(1, 2), (draw_folders, draw_path)):
            paint(axes)
            axes.set_ylim(-0.1, max(len(FOLDERS), len(PATH)) - 0.1)
            axes.axis("off")
    return figure


def main():
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=ROOT / "docs" / "architecture.png")
    draw().savefig(parser.parse_args().output, dpi=110)


if __name__ == "__main__":
    main()
