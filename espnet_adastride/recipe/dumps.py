"""Whether folders of data were made with the options that a later stage is given.

``--stage 10 --fs 16k`` on audio that stage 3 has formatted at 8 kHz would train on
wrong data without an error: ESPnet does not look at the rate of a FLAC file. The stamps
of stages 2 to 4 have the options that they were made with.
"""

from pathlib import Path
from typing import Any, Dict

from espnet_adastride.config import read_config
from espnet_adastride.corpora.features import parse_words
from espnet_adastride.corpora.upstream_record import (
    DEFAULT_MODEL,
    RECORD_NAME,
    UpstreamRecord,
    read_record,
)
from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike
from espnet_adastride.options import parse_rate
from espnet_adastride.recipe.stamps import Stamp, recorded_options

STAMP = ".stage_done"


def check_options(folder: PathLike, options: Dict[str, Any], stage: int) -> None:
    """Check the options that a folder was made with; one without a stamp passes.

    Args:
        folder: made by ``stage``.
        options: names and values as that stage records them.
        stage: for the message.

    Raises:
        UserError: it was made with another value.
    """
    recorded = recorded_options(Stamp(Path(folder) / STAMP))
    for name, value in options.items():
        before = recorded.get(name)
        if before is not None and before != str(value):
            raise UserError(
                f"{folder} was made with --{name} {before}, not {value}: give --{name} "
                f"'{before}', or begin with --stage {3 if name == 'fs' else stage}"
            )


def check_upstream(folder: PathLike, words: str, layers: str) -> None:
    """Check that a folder's features are those of ``--upstream`` and its layers.

    Raises:
        UserError: they are of another encoder, or of other layers.
    """
    record = read_record(Path(folder) / RECORD_NAME)
    name, model = parse_words(words)
    same = name == record.upstream and _is_model(record, model)
    if layers == "all":
        same = same and record.layers == tuple(range(len(record.layers)))
    else:
        numbers = ["-1" if word == "last" else word for word in layers.split()]
        same = same and list(map(str, record.layers)) == numbers
    if not same:
        raise UserError(
            f"{folder} has the features of {record.words()}, not of --upstream {words} "
            f"--upstream_layers '{layers}': give other options, or begin with --stage 3"
        )


def _is_model(record: UpstreamRecord, model) -> bool:
    if model is None or record.model == DEFAULT_MODEL:
        return model is None and record.model == DEFAULT_MODEL
    # a model that was moved is not compared
    before = Path(record.model)
    return not before.is_dir() or before.resolve() == Path(model).resolve()


def check_model(folder: PathLike, exp: PathLike) -> None:
    """Check that a trained model can decode a folder's audio or features.

    Raises:
        UserError: the sampling rate, or the encoder that features are from, is another.
    """
    folder, exp = Path(folder), Path(exp)
    config = read_config(exp / "config.yaml")
    if config.get("input_size") is not None:
        # a model without the record was not trained by this recipe
        if (exp / RECORD_NAME).is_file() and (folder / RECORD_NAME).is_file():
            trained, found = (read_record(p / RECORD_NAME) for p in (exp, folder))
            if (trained.sha256, trained.layers) != (found.sha256, found.layers):
                raise UserError(
                    f"{folder} has the features of {found.words()}, but {exp} was "
                    f"trained on those of {trained.words()}: give the --upstream of "
                    "the training, and begin with --stage 3 --skip_train true"
                )
        return
    given = (config.get("frontend_conf") or {}).get("fs")
    if given is None:
        return
    rate = parse_rate(str(given))
    before = recorded_options(Stamp(folder / STAMP)).get("fs", str(rate))
    if before != str(rate):
        raise UserError(
            f"{folder} has audio at {before} Hz, but {exp} was trained at {rate} Hz: "
            f"give --fs {rate}, and begin with --stage 3 --skip_train true"
        )
