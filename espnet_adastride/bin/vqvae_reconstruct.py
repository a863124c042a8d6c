"""Reconstruct recordings with a trained VQ-VAE: audio, pictures, tokens, measures.

    python -m espnet_adastride.bin.vqvae_reconstruct --model exp/adastride_f_8x_seed0 \
        --output_dir out recordings/ talk.mp3

For every recording (long ones are cut at pauses), it writes ID.wav, ID.original.wav,
ID.vocoder.wav and ID.png, and for all of them ``result.json``: error, codebook
perplexity, bits per second, side information (``evaluation/vqvae.py``). The output
folder holds the recordings of its last call.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Dict, Set

from espnet_adastride.bin.parsers import Parser, command, say
from espnet_adastride.corpora.recordings import Source, describe_unread, find_media
from espnet_adastride.corpora.unlabelled import (
    SHORTEST,
    Recording,
    cut_recording,
    name_recordings,
)
from espnet_adastride.errors import AudioError, UserError, counted, fail
from espnet_adastride.files import check_folder, shown, write_text
from espnet_adastride.quiet import quiet_imports

#: folder in the output folder, of recordings that were cut or converted
AUDIO = "audio"
#: what the listening copies of a recording are named by
COPIES = (".original", ".vocoder")


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("recordings", nargs="+", help="files or folders")
    parser.add_argument(
        "--model", required=True, help="experiment folder of the training"
    )
    parser.add_argument("--model_file", help="parameter file; default: the best epoch")
    parser.add_argument("--output_dir", required=True, help="output folder")
    return parser


def _check_apart(recordings: Dict[str, Source], folder: Path) -> None:
    """Reject recordings whose outputs would have the names of others.

    Raises:
        UserError: naming the first recording that is in a folder that is written to, or
            named as the copy (:func:`listen`) of another.
    """
    written = {os.path.realpath(place) for place in (folder, folder / AUDIO)}
    for name, source in recordings.items():
        if Path(name).suffix in COPIES and Path(name).stem in recordings:
            raise UserError(
                f"{shown(source.path)}: the copy of {Path(name).stem} would have its "
                "name; rename it, or leave it out"
            )
        if os.path.dirname(os.path.realpath(source.path)) in written:
            raise UserError(
                f"--output_dir {folder}: the recording {shown(source.path)} is in it "
                "and could be overwritten; give another folder"
            )


def _remove_earlier(folder: Path, ids: Set[str]) -> None:
    """Remove what an earlier call wrote of recordings that are not given now."""
    earlier: Set[str] = set()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        earlier.update(json.loads((folder / "result.json").read_bytes())["utterances"])
    others = sorted(name for name in earlier - ids if Path(name).name == name)
    for name in others:
        for ending in (".png", ".wav", *(f"{copy}.wav" for copy in COPIES)):
            (folder / f"{name}{ending}").unlink(missing_ok=True)
    if others:
        say(
            f"{folder}: removed the earlier reconstruction of "
            f"{counted(len(others), 'piece')}, such as {shown(others[0])}"
        )


@command(get_parser)
def main(args):
    import torch

    torch.set_num_threads(1)
    if not (Path(args.model) / "config.yaml").is_file():
        raise UserError(
            f"--model {args.model}: no config.yaml in it; give the folder of a "
            "finished VQ-VAE training"
        )
    sources, unread, _ = find_media(args.recordings)
    if unread:
        raise UserError(describe_unread(unread))
    if not sources:
        raise UserError(
            f"{' '.join(args.recordings)}: no recordings in it; give audio files, or "
            "folders of them"
        )
    recordings = name_recordings(sources, suffixes=True)
    check_folder(args.output_dir, "--output_dir")
    _check_apart(recordings, Path(args.output_dir))
    with quiet_imports():
        from espnet_adastride.evaluation.vqvae import measure
        from espnet_adastride.plugin.vqvae_task import load_vqvae
        from espnet_adastride.report.listening import listen
    model = load_vqvae(args.model, args.model_file)
    folder = Path(args.output_dir)
    (folder / AUDIO).mkdir(parents=True, exist_ok=True)
    pieces, failed = [], 0
    for name, source in recordings.items():
        own = Recording(name, source.path, f"file {name}")
        try:
            found = cut_recording(own, folder / AUDIO, model.features.fs, recordings)
            if found[0][2] < SHORTEST:
                raise AudioError(f"{shown(source.path)}: shorter than {SHORTEST} s")
        except AudioError as error:
            if len(sources) == 1:
                raise
            failed += 1
            say(f"error: {error}")
            continue
        pieces += [Recording(i, str(path), own.group) for i, path, _ in found]
    if not pieces:
        fail("no recording can be used")
    _remove_earlier(folder, {piece.id for piece in pieces})
    listen(model.features, model.network, pieces, folder)
    result = measure(model.features, model.network, pieces)
    write_text(folder / "result.json", json.dumps(result) + "\n")
    print(
        f"{folder}: {counted(len(sources) - failed, 'recording')} in "
        f"{counted(len(pieces), 'piece')}, "
        f"error {result['error']:.2f} dB, perplexity {result['perplexity']:.0f}, "
        f"{result['tokens_per_second']:.1f} tokens/s, "
        f"{result['bits']:.0f} + {result['side_bits']:.0f} bit/s"
    )
    if failed:
        fail(f"{failed} of {len(sources)} recordings failed")


if __name__ == "__main__":
    main()
