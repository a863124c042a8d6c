"""The metadata of an exported file, and frame times from positions."""

import base64
import json
import zlib
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from espnet_adastride.errors import UserError
from espnet_adastride.timing.boundaries import (
    boundaries_in_seconds,
    compose_boundaries,
    slot_boundaries,
    uniform_boundaries,
)

#: key of the file's metadata_props, and the version of its format
KEY, VERSION = "espnet_adastride", 1

#: what a description has at least, and its types
REQUIRED: Dict[str, Tuple[type, ...]] = {
    **{"tokens": (list,), "token_type": (str,), "space": (str,), "blank": (int,)},
    **{"rate": (int,), "volume": (int, float, type(None)), "least_frames": (int,)},
    **{"stages": (list,), "lengths": (list, type(None))},
    **{"frontend": (dict, type(None)), "upstream": (dict, type(None))},
}


def pack_array(array: np.ndarray) -> Dict[str, Any]:
    """Return a float32 array as JSON types, exactly."""
    data = zlib.compress(np.ascontiguousarray(array, dtype="<f4").tobytes(), 9)
    return {"shape": list(array.shape), "zlib": base64.b64encode(data).decode("ascii")}


def unpack_array(packed: Dict[str, Any]) -> np.ndarray:
    """Undo :func:`pack_array`."""
    data = zlib.decompress(base64.b64decode(packed["zlib"]))
    return np.frombuffer(data, dtype="<f4").reshape(packed["shape"])


def to_metadata(content: Dict[str, Any], card: str) -> Dict[str, str]:
    """Return the metadata of a file: our description, and the model's card."""
    text = json.dumps({"version": VERSION, **content}, ensure_ascii=False)
    return {KEY: text, "card": card}


def damaged(path: object, what: str) -> UserError:
    """Return the error of a file whose description cannot be used."""
    return UserError(
        f"{path}: its description is damaged ({what}); export the model again"
    )


def read_description(text: str, path: object) -> Dict[str, Any]:
    """Return the description of a file.

    Args:
        text: the metadata's :data:`KEY`.
        path: the file, for messages.

    Raises:
        UserError: it is damaged, or of another version.
    """
    try:
        content = json.loads(text)
        version = content["version"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise damaged(path, "no JSON with a version") from None
    if version != VERSION:
        raise UserError(
            f"{path}: version {version} of the format, but only version {VERSION} is "
            "supported; export the model again"
        )
    wrong = [
        name
        for name, kind in REQUIRED.items()
        if name not in content or not isinstance(content[name], kind)
    ]
    if wrong:
        raise damaged(path, ", ".join(wrong))
    return content


def output_names(stages: Sequence[Dict[str, Any]]) -> List[str]:
    """Return the program's outputs: log_probs, positions_1 .. of stages with them."""
    placed = [n for n, stage in enumerate(stages, 1) if stage["positions"]]
    return ["log_probs", *(f"positions_{n}" for n in placed)]


def frame_boundaries(
    stages: Sequence[Dict[str, Any]],
    positions: Sequence[np.ndarray],
    features: int,
    frames: int,
    step: float,
    centre: float,
    duration: float,
) -> np.ndarray:
    """Return (frames + 1,) seconds at which the output frames begin and end.

    Args:
        stages: from the description: ``stride``, ``shift``, ``positions``.
        positions: (T,) of every stage with positions.
        features: number of input frames of the program.
        frames: number of its output frames.
        step: seconds from one feature frame to the next.
        centre: centre of feature frame 0 in seconds.
        duration: of the recording, in seconds.
    """
    rows, boundaries, n = iter(positions), [], features
    for number, stage in enumerate(stages, 1):
        # the last stage determines its number of frames
        m = frames if number == len(stages) else int(np.ceil(n / stage["stride"]))
        if stage["positions"]:
            boundaries.append(slot_boundaries(next(rows), n, m))
        else:
            boundaries.append(uniform_boundaries(n, m, stage["stride"], stage["shift"]))
        n = m
    inner = compose_boundaries(boundaries)
    return boundaries_in_seconds(inner, step, centre - step / 2, duration)
