"""One command for all tools: ``adastride transcribe talk.mp3 --model exp/asr_...``.

``adastride`` alone lists the commands; ``adastride COMMAND --help`` is the command's
own help. A command's module is imported when it is called: this list and ``--version``
need neither torch nor ESPnet. ``python -m espnet_adastride.bin.NAME`` is the same
command under its module's name.
"""

import importlib
import sys
from typing import Dict, Sequence, Tuple

from espnet_adastride.errors import UserError, one_line_errors, unknown_word
from espnet_adastride.version import __version__

#: the commands by group: word, module in bin/, what it does
GROUPS: Dict[str, Tuple[Tuple[str, str, str], ...]] = {
    "Use a trained model": (
        ("transcribe", "transcribe", "recordings to text, with true word times"),
        ("align", "align", "align transcripts with audio: word times"),
        ("plot", "plot", "draw where frames go: an utterance, a corpus, a training"),
        ("export", "export", "one file that runs without ESPnet: ONNX, torch.export"),
        ("pack", "pack_model", "pack a trained model with its card"),
        ("unpack", "unpack_model", "unpack a packed model safely"),
    ),
    "Score and compare": (
        ("report", "report", "one HTML page on one or more experiments"),
        ("score", "score", "score a decoded set, or collect an experiment's scores"),
        ("score-times", "score_times", "compare word times with a reference"),
        ("rate-curve", "rate_curve", "error rate against frame rate, of one model"),
        ("compare", "compare", "train and compare methods, rates, seeds in a recipe"),
        ("classify", "classify", "train and compare classifiers of recordings"),
        (
            "classify-espnet",
            "classify_espnet",
            "train and compare classifiers in ESPnet's task cls",
        ),
        ("compare-vqvae", "compare_vqvae", "train and compare VQ-VAEs"),
        ("reconstruct", "vqvae_reconstruct", "recordings through a trained VQ-VAE"),
        ("experiment", "experiment", "run the missing runs of an experiment"),
        ("results", "results", "tables and pictures from the records in git"),
    ),
    "Prepare and train": (
        ("prepare", "prepare", "data folders of your own recordings, in any layout"),
        ("prepare-librispeech", "prepare_librispeech", "LibriSpeech to data folders"),
        ("prepare-digits", "prepare_digits", "connected digits to data folders"),
        ("download-librispeech", "download_librispeech", "parts of LibriSpeech"),
        ("download-corpus", "download_corpus", "a corpus of classified recordings"),
        ("make-corpus", "make_espeak_corpus", "the demo's corpus, by eSpeak NG"),
        ("say", "say", "say a sentence with eSpeak NG"),
        (
            "extract-features",
            "extract_features",
            "extract features of a pretrained encoder",
        ),
        ("plan", "plan_training", "check data, memory and cost before training"),
        ("run", "run", "an ESPnet tool with the plugin registered"),
    ),
}

COMMANDS = {word: module for group in GROUPS.values() for word, module, _ in group}

#: how a shell gets the completion of the words above and of the commands' options
SHELLS = ("bash", "zsh", "tcsh")


def usage() -> str:
    """Return the list of commands, in groups."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["usage: adastride COMMAND [options]    (adastride COMMAND --help)"]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {word:<{width}}{text}" for word, _, text in commands]
    lines += [
        "",
        "Also: adastride --version; adastride --completion bash (zsh, tcsh) prints",
        "a shell completion script, for a file such as",
        "~/.local/share/bash-completion/completions/adastride.",
    ]
    return "\n".join(lines)


def complete(shell: str) -> str:
    """Return the completion script for a shell, of all commands and their options.

    Raises:
        UserError: for another shell, or without the package shtab.
    """
    if shell not in SHELLS:
        raise UserError(unknown_word("shell", shell, SHELLS))
    try:
        import shtab
    except ImportError:
        raise UserError(
            "--completion needs the package shtab: pip install shtab"
        ) from None
    import argparse

    parser = argparse.ArgumentParser(prog="adastride")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for group in GROUPS.values():
        for word, name, text in group:
            module = importlib.import_module(f"espnet_adastride.bin.{name}")
            own = module.get_parser()
            commands.add_parser(
                word,
                parents=[own],
                help=text,
                add_help=False,
                conflict_handler="resolve",
            )
    return shtab.complete(parser, shell)


@one_line_errors
def main(cmd: Sequence[str] = None):
    """Call a command.

    Args:
        cmd: the arguments; by default those of the process.
    """
    given = list(sys.argv[1:] if cmd is None else cmd)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return
    word, *rest = given
    if word == "--version":
        print(f"adastride {__version__}")
        return
    if word == "--completion":
        print(complete(rest[0] if rest else "bash"))
        return
    if word not in COMMANDS:
        message = unknown_word("command", word, COMMANDS)
        raise UserError(f"{message}; adastride --help says what each does")
    sys.argv = [f"adastride {word}", *rest]
    module = importlib.import_module(f"espnet_adastride.bin.{COMMANDS[word]}")
    module.main(rest)


if __name__ == "__main__":
    main()
