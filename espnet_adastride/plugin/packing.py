"""Pack a trained model and its card with ``espnet2.bin.pack``.

The model is built and loaded before it is packed. ESPnet's tool keeps paths relative to
the current folder, and absolute paths of files elsewhere (also behind links), which
cannot be unpacked on another machine. The files are therefore copied into one folder
first.
"""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import torch
import yaml

from espnet_adastride.config import map_strings, read_config
from espnet_adastride.corpora.lengths import LENGTHS_NAME, find_lengths, write_lengths
from espnet_adastride.corpora.tokens import check_pieces
from espnet_adastride.corpora.upstream_record import RECORD_NAME, read_record
from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, write_text
from espnet_adastride.networks.unpacking import check_weights
from espnet_adastride.plugin.espnet import asr_task
from espnet_adastride.plugin.espnet import pack as espnets_pack
from espnet_adastride.plugin.model_files import check_task
from espnet_adastride.report.model_card import BEGINNING, model_card
from espnet_adastride.report.tables import short_count

CONFIGS = ("asr_train_config", "lm_train_config")
#: archives that ESPnet's tool writes; of two suffixes, only without other dots
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz")
TWO_SUFFIXES = tuple([".tar", last] for last in (".gz", ".bz2", ".xz"))
WEIGHTS = ("asr_model_file", "lm_file")


def archive_name(path: str) -> str:
    """Return a file's name in the archive, relative to the current folder if it can."""
    name = os.path.relpath(os.path.abspath(path))
    if name.startswith(".."):
        name = os.path.abspath(path).lstrip("/")
    return name


def files_of(config_file: str) -> List[str]:
    """Return the files that a configuration reads: pieces, symbols, statistics.

    Raises:
        UserError: one of them is missing.
    """
    config = read_config(config_file)
    found = [config.get("bpemodel"), config.get("non_linguistic_symbols")]
    found.append((config.get("normalize_conf") or {}).get("stats_file"))
    names = [name for name in found if isinstance(name, str)]
    for name in names:
        if not Path(name).is_file():
            raise UserError(
                f"{config_file} names {name}, which is missing: call this from the "
                "folder of the training (the recipe's), or copy the file there"
            )
    return names


@contextmanager
def _working_in(folder: str):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def halve_weights(source: str, target: Path) -> None:
    """Write a parameter file with floating-point numbers as float16.

    ESPnet converts them to float32 when it loads them.

    Raises:
        UserError: a parameter exceeds the range of float16.
    """

    def half(name, value):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        if value.numel() and not bool(value.half().isfinite().all()):
            raise UserError(
                f"{source}: {name} has numbers beyond the range of float16 (65504) or "
                "non-finite numbers; pack with --dtype float32"
            )
        return value.half()

    state = torch.load(source, map_location="cpu", weights_only=True)
    torch.save({name: half(name, value) for name, value in state.items()}, target)


def pack_model(
    named: Dict[str, str],
    outpath: PathLike,
    others: Sequence[str] = (),
    results: Optional[str] = None,
    license_name: str = "cc-by-4.0",
    language: str = "noinfo",
    dtype: str = "float32",
) -> str:
    """Write the archive and its card next to it; return one line about it.

    Args:
        named: {option of ``espnet2.bin.pack asr``: file} of configurations and
            parameters; ``asr_train_config`` and ``asr_model_file`` are needed.
        outpath: output archive (.zip, .tgz ...).
        others: other files to pack; those that the configurations read are packed
            without being named.
        results: RESULTS.md, for the card.
        license_name, language: of the model, for the card.
        dtype: of the packed parameters, ``float32`` or ``float16``.

    Raises:
        UserError: The model does not load, its SentencePiece model is not that of the
            training, or the card would replace another file.
    """
    out = Path(outpath).absolute()
    if out.suffix not in ARCHIVES and out.suffixes not in TWO_SUFFIXES:
        raise UserError(
            f"--outpath {outpath}: the name must end in {', '.join(ARCHIVES)}"
        )
    beside_it = out.with_name("README.md")
    if beside_it.exists() and not beside_it.read_bytes().startswith(BEGINNING):
        raise UserError(
            f"{beside_it} is not a model's card, which would replace it: give an "
            "--outpath in another folder"
        )
    config = read_config(named["asr_train_config"])
    check_task(Path(named["asr_train_config"]), config)
    own = [name for key in CONFIGS if key in named for name in files_of(named[key])]
    paths: List[str] = [*named.values(), *own, *others]
    for key in WEIGHTS:
        if key in named:
            check_weights(named[key])
    names = {os.path.abspath(path): archive_name(path) for path in paths}
    # as decoding does
    model, trained = asr_task.ASRTask.build_model_from_file(
        named["asr_train_config"], named["asr_model_file"], "cpu"
    )
    if trained.token_type == "bpe":
        check_pieces(trained.bpemodel, model.token_list)
    parameters = sum(p.numel() for p in model.parameters())
    beside = Path(named["asr_train_config"]).with_name(RECORD_NAME)
    upstream = read_record(beside) if beside.is_file() else None
    lengths = find_lengths(config, beside.parent, [Path.cwd()])
    card = model_card(
        name=out.stem,
        config=config,
        parameters=parameters,
        files={k: names[os.path.abspath(v)] for k, v in named.items()},
        results=results,
        license_name=license_name,
        language=language,
        upstream=upstream,
        dtype=dtype,
        archive=out.name,
    )

    def in_archive(word: str) -> str:
        return names.get(os.path.abspath(word), word) if "/" in word else word

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack", dir=out.parent) as folder:
        for path in paths:
            target = Path(folder, names[os.path.abspath(path)])
            target.parent.mkdir(parents=True, exist_ok=True)
            if dtype == "float16" and path in (named.get(k) for k in WEIGHTS):
                halve_weights(path, target)
            else:
                shutil.copyfile(path, target)
        for key in CONFIGS:
            if key in named:
                config = map_strings(read_config(named[key]), in_archive)
                text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
                target = Path(folder, names[os.path.abspath(named[key])])
                target.write_text(text, encoding="utf-8")
        write_text(Path(folder, "README.md"), card)
        further = ["README.md", *(names[os.path.abspath(p)] for p in (*own, *others))]
        if lengths is not None:
            place = Path(names[os.path.abspath(named["asr_train_config"])])
            further.append(str(place.with_name(LENGTHS_NAME)))
            write_lengths(Path(folder, further[-1]), lengths)
        words = ["asr"]
        for key, path in named.items():
            words += [f"--{key}", names[os.path.abspath(path)]]
        for path in dict.fromkeys(further):
            words += ["--option", path]
        with _working_in(folder):
            espnets_pack([*words, "--outpath", out.name])
        os.replace(Path(folder, out.name), out)
    write_text(beside_it, card)
    size = out.stat().st_size / 2**20
    return (
        f"{out}: {short_count(parameters)} parameters, {size:.1f} MiB; card: README.md"
    )
