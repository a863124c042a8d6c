"""A trained model as it lies on the disk: an experiment's folder, or a package.

Parameters are loaded with ``weights_only``, so that they run no code, and a package is
unpacked into a temporary folder and nowhere else (``recipe/archive.py``).
"""

import inspect
import pickle
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import yaml

from espnet_adastride.config import read_config, read_yaml
from espnet_adastride.corpora.datadir import parse_rate
from espnet_adastride.corpora.features import (
    RECORD_NAME,
    Upstream,
    read_record,
    rebuild_upstream,
)
from espnet_adastride.corpora.lengths import find_lengths
from espnet_adastride.downsampling.registry import downsampler_class
from espnet_adastride.errors import (
    AudioError,
    ConfigurationError,
    ModelError,
    UnknownTimesError,
    UserError,
    located,
    unknown_word,
)
from espnet_adastride.networks.saved_models import default_model
from espnet_adastride.networks.unpacking import unpack
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.espnet import (
    TokenIDConverter,
    TooShortUttError,
    asr_task,
    build_tokenizer,
)
from espnet_adastride.plugin.frame_times import (
    FeatureGrid,
    FrameTimes,
    frame_times,
    overall_stride,
)
from espnet_adastride.plugin.frontends import (
    FrontendFrames,
    frontend_frames,
    why_unknown,
)
from espnet_adastride.plugin.greedy import main_frames
from espnet_adastride.plugin.model import input_layer, set_block, set_stride

PathLike = Union[str, Path]

#: options of asr_inference's command that do not concern one utterance's decoding
COMMAND_OPTIONS = (
    "allow_variable_data_keys batch_size config data_path_and_name_and_type key_file "
    "log_level ngpu num_workers output_dir seed"
).split()

#: matrices of a layer's attention that are in memory together (measured: 5 to 6), and
#: from how many bytes on it is asked how much memory is free
MATRICES, CHECKED_BYTES = 6, 1 << 28

#: options that name files, which may lie in the folder that they were named in
FILE_OPTIONS = ("bpemodel", "stats_file", "token_list", "non_linguistic_symbols")


class ModelFiles(NamedTuple):
    """Where the parts of a model are.

    Attributes:
        config: config.yaml of the training.
        parameters: of the model.
        roots: folders that the config's relative names may start from, best first.
        lm_config: of a language model, or None.
        lm_parameters: or None.
    """

    config: Path
    parameters: Path
    roots: Tuple[Path, ...]
    lm_config: Optional[Path] = None
    lm_parameters: Optional[Path] = None


# ------------------------------------------------------------------ finding


def _within(root: Path, name: object) -> Optional[Path]:
    """Return the file of that name below root, None if there is none."""
    if not isinstance(name, str) or not name:
        return None
    path = (root / name.lstrip("/")).resolve()
    inside = path.is_relative_to(root.resolve())
    return path if inside and path.is_file() else None


def _packed_files(root: Path, shown: PathLike) -> ModelFiles:
    try:
        meta = yaml.safe_load((root / "meta.yaml").read_text(encoding="utf-8"))
        names = {**meta["yaml_files"], **meta["files"]}
    except (OSError, KeyError, TypeError, UnicodeDecodeError, yaml.YAMLError):
        raise ModelError(
            f"{shown}: no meta.yaml that espnet2.bin.pack writes; pack the model with "
            "python -m espnet2.bin.pack asr"
        ) from None
    found = {key: _within(root, name) for key, name in names.items()}
    for key in ("asr_train_config", "asr_model_file"):
        if found.get(key) is None:
            raise ModelError(
                f"{shown}: its meta.yaml names no {key} that is in it; pack an ASR "
                "model with python -m espnet2.bin.pack asr"
            )
    return ModelFiles(
        found["asr_train_config"],
        found["asr_model_file"],
        (root,),
        found.get("lm_train_config"),
        found.get("lm_file"),
    )


def _choose_parameters(folder: Path, wanted: Optional[str]) -> Path:
    if wanted is not None:
        for path in (folder / wanted, Path(wanted)):
            if path.is_file():
                return path
    there = sorted(folder.glob("valid.*.ave.pth"))
    there = there or sorted(folder.glob("valid.*.ave_*best.pth"))  # ESPnet3's
    if wanted is None:
        try:  # the one that the recipe decodes with
            usual = folder / default_model(read_config(folder / "config.yaml"))
        except UserError:
            usual = folder / "valid.acc.ave.pth"
        if usual in there:
            return usual
    if wanted is None and len(there) == 1:
        return there[0]
    names = ", ".join(sorted(p.name for p in folder.glob("*.pth"))) or "none"
    if wanted is not None:
        problem = f"{wanted} is not there"
    elif there:
        problem = "several averaged models"
    else:
        problem = "no averaged model (valid.*.ave.pth): train it to the end"
    raise ModelError(
        f"{folder}: {problem}; name one with --asr_model_file (there: {names})"
    )


def find_files(model: PathLike, asr_model_file: Optional[str], scratch: Path):
    """Return the ModelFiles of a folder, a .pth file in it, or a package.

    Args:
        model: an experiment's folder, one of its parameter files, a package of
            ``espnet2.bin.pack`` (zip or tar), or the folder that it was unpacked to.
        asr_model_file: parameters in the folder; None: the averaged ones.
        scratch: folder to unpack to.

    Raises:
        ModelError: in one line.
    """
    path = Path(model)
    if path.is_file() and path.suffix == ".pth":
        path, asr_model_file = path.parent, path.name
    if path.is_dir():
        if (path / "config.yaml").is_file():
            parameters = _choose_parameters(path, asr_model_file)
            # a recipe's folder is two above its experiment's, or some more
            parents = path.resolve().parents
            above = [*parents[1:4], parents[0], path.resolve()]
            return ModelFiles(path / "config.yaml", parameters, (*above, Path.cwd()))
        if (path / "meta.yaml").is_file():
            return _packed_files(path, model)
        raise ModelError(
            f"{model}: no config.yaml in it; give an experiment's folder "
            "(exp/asr_...) or a packed .zip"
        )
    if not path.exists():
        raise ModelError(
            f"{model}: no such file or folder; give an experiment's folder "
            "(exp/asr_...) or a packed .zip"
        )
    try:
        unpack(path, scratch / "model")
    except UserError as error:
        raise ModelError(
            f"{error}; give an experiment's folder, or a package"
        ) from None
    return _packed_files(scratch / "model", model)


# ------------------------------------------------------------------ loading


def read_options(path: Path, roots: Sequence[Path]) -> Dict[str, Any]:
    """Return a config.yaml's options; files that it names are found below the roots.

    Raises:
        DataError, ModelError: if it cannot be read, or a file that the model needs is
            missing.
    """
    options = read_yaml(path)
    if not isinstance(options, dict):
        raise ModelError(f"{path}: holds no options; give a training's config.yaml")

    def fix(key, value):
        if isinstance(value, dict):
            return {name: fix(name, v) for name, v in value.items()}
        if not isinstance(value, str) or not ("/" in value or key in FILE_OPTIONS):
            return value
        if not Path(value).is_absolute():
            places = (root / value for root in roots)
        elif Path(value).is_file():
            return value
        else:  # packed by its full name
            places = (_within(root, value) for root in roots[:1])
        return next((str(p) for p in places if p is not None and p.is_file()), value)

    options = fix("", options)
    options["init"] = None  # parameters come from a file; some names are gone by 202611
    leave_out_unknown(options)
    statistics = (options.get("normalize_conf") or {}).get("stats_file")
    for name in (statistics, options.get("bpemodel")):
        if isinstance(name, str) and not Path(name).is_file():
            raise ModelError(
                f"{path} names {name}, which is not there: copy it with the model, or "
                "pack both with espnet2.bin.pack (--option)"
            )
    return options


#: options of ESPnet 202611 that change no result, and what has them
NEW_OPTIONS = (("decoder", "use_sdpa"), ("preprocessor", "text_length_warning_thres"))


def leave_out_unknown(options: Dict[str, Any]) -> None:
    """Take out, in place, what an older ESPnet does not know and can do without."""
    for part, word in NEW_OPTIONS:
        choices = getattr(asr_task, f"{part}_choices").classes
        conf, kind = options.get(f"{part}_conf"), choices.get(options.get(part))
        if isinstance(conf, dict) and word in conf and kind is not None:
            if word not in inspect.signature(kind).parameters:
                options[f"{part}_conf"] = {k: v for k, v in conf.items() if k != word}


def read_parameters(path: Path) -> Dict[str, torch.Tensor]:
    """Return the parameters in a file, refusing anything that is not a tensor.

    Raises:
        ModelError: if it cannot be read, or holds more than parameters.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"{path}: not loaded: it is damaged or holds more than parameters "
            f"({first[:80]}); copy it again, or save the model's state_dict alone"
        ) from None
    except Exception as error:  # whatever a damaged file makes the unpickler trip over
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: cannot be read as a model ({first[:80]})") from None
    if isinstance(state, dict) and isinstance(state.get("module"), dict):
        state = state["module"]  # deepspeed's
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # Lightning's, by ESPnet3
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ModelError(f"{path}: holds no model's parameters; give valid.*.ave.pth")
    return state


def read_inference_config(source) -> Dict[str, Any]:
    """Return options of ESPnet's Speech2Text from a YAML file, or a dict of them.

    Raises:
        DataError, ConfigurationError: if it cannot be read; naming a wrong key and the
            choices.
    """
    where = source if isinstance(source, (str, Path)) else "inference_config"
    if isinstance(source, (str, Path)):
        options = read_yaml(source) or {}
    else:
        options = source
    if not isinstance(options, dict):
        raise ConfigurationError(f"{where}: give options such as beam_size: 10")
    own = ("self", "asr_train_config", "asr_model_file", "device", "nbest")
    known = [
        w
        for w in inspect.signature(espnet.Speech2Text.__init__).parameters
        if w not in own
    ]
    for word in options:
        if word not in known and word not in COMMAND_OPTIONS and word not in own:
            raise ConfigurationError(f"{where}: {unknown_word('key', word, known)}")
    for word in ("quantize_asr_model", "quantize_lm", "streaming", "multi_asr"):
        if options.get(word):
            raise ConfigurationError(f"{where}: {word} is not supported here")
    return {
        word: value
        for word, value in options.items()
        if word in known and word not in COMMAND_OPTIONS
    }


def free_memory(device: str) -> Optional[int]:
    """Return the free bytes of a device's memory; None where that is not known."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info()[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


class Encoded(NamedTuple):
    """An utterance as the encoder sees it.

    Attributes:
        frames: (T', D).
        log_probs: (T', V) of the CTC branch, on the CPU; None if there is none.
        times: when the frames are; None where nobody asked.
        speech: what the model was given: samples (n,), or extracted features (T, F).
    """

    frames: torch.Tensor
    log_probs: Optional[torch.Tensor]
    times: Optional[FrameTimes]
    speech: Optional[np.ndarray] = None


class TrainedModel:
    """A trained ESPnet ASR model, this plugin's or stock.

    Args:
        model: an experiment's folder, or a package; see :func:`find_files`.
        asr_model_file: parameters in the folder; None: the averaged ones.
        device: ``cpu`` or ``cuda``.
        inference_config: YAML file or options of a beam search (``beam_size`` ...);
            None: no beam search, unless the model has no CTC branch.
        stride: overall rate of the input layer, for AdaStride's layers; None: as
            trained.
        upstream_model: folder of the pretrained encoder whose features the model
            reads, if it is not where it was in training.
        block: seconds of a block, for layers that place blocks; None: as trained.

    Attributes:
        model: ESPnetASRModel, in evaluation mode.
        args: its options.
        rate: samples per second that it wants.
        upstream: makes the features that it reads (``--feats_type extracted``); None:
            it reads samples.
        search: ESPnet's Speech2Text, or None: greedy CTC.
        lengths: of the utterances that it was trained on; None: not known.

    Raises:
        DataError, ModelError: for a model that cannot be found or read.
        ConfigurationError: for a configuration that does not suit it.
    """

    def __init__(
        self,
        model: PathLike,
        asr_model_file: Optional[str] = None,
        device: str = "cpu",
        inference_config: Union[None, PathLike, Dict[str, Any]] = None,
        stride: Optional[float] = None,
        upstream_model: Optional[PathLike] = None,
        block: Optional[float] = None,
    ):
        if device != "cpu" and not torch.cuda.is_available():
            raise ConfigurationError(f"device {device}: there is no GPU; use cpu")
        self.device, self.search = device, None
        # lives as long as the model: tokenizers open their files late
        self._scratch = tempfile.TemporaryDirectory(prefix="adastride-")
        scratch = Path(self._scratch.name)
        files = find_files(model, asr_model_file, scratch)
        options = read_options(files.config, files.roots)
        if "encoder" not in options or not options.get("token_list"):
            raise ModelError(
                f"{files.config}: not of an ASR model (no encoder, or no token_list)"
            )
        self.upstream = self._load_upstream(files, options, upstream_model)
        self.lengths = find_lengths(options, files.config.parent, files.roots)
        state = read_parameters(files.parameters)
        has_ctc = any(key.startswith("ctc.") for key in state)
        if inference_config is None and not has_ctc:
            inference_config = {"ctc_weight": 0.0, "beam_size": 10}
        config = scratch / "mended_config.yaml"
        config.write_text(yaml.safe_dump(options), encoding="utf-8")
        # parameters are not loaded by ESPnet, which would run code in them
        if inference_config is None:
            self.model, self.args = asr_task.ASRTask.build_model_from_file(
                config, None, device
            )
        else:
            self.search = self._build_search(config, files, inference_config)
            self.model, self.args = (
                self.search.asr_model,
                self.search.asr_train_args,
            )
        self.model.load_state_dict(state, strict=False)
        self.model.eval()
        self.layer = input_layer(self.model)
        fs = (self.args.frontend_conf or {}).get("fs", 16000)
        self.rate = parse_rate(str(fs))
        if self.upstream is not None:
            self.rate = self.upstream.record.rate
        if stride is not None:
            self.set_stride(stride)
        if block is not None:
            self.set_block(block)
        self._prepare_text()

    def _load_upstream(
        self, files: ModelFiles, options: Dict[str, Any], folder: Optional[PathLike]
    ) -> Optional[Upstream]:
        """Return the upstream of a model that reads features; None: it reads audio."""
        path = files.config.with_name(RECORD_NAME)
        if options.get("input_size") is None:
            if folder is not None:
                raise ConfigurationError(
                    f"upstream_model {folder}: this model reads audio; leave it out"
                )
            return None
        if not path.is_file():
            raise ModelError(
                f"{files.config}: the model reads extracted features (input_size "
                f"{options['input_size']}), and {RECORD_NAME}, which says of what, is "
                "not beside it: copy it from dump/extracted/<training set>/"
            )
        record = read_record(path)
        if record.dimensions != options["input_size"]:
            raise ModelError(
                f"{path}: features of {record.dimensions} values, and the model reads "
                f"{options['input_size']}: it belongs to another model"
            )
        return rebuild_upstream(record, folder, self.device)

    def _build_search(self, config: Path, files: ModelFiles, inference_config):
        options = read_inference_config(inference_config)
        lm_config = options.pop("lm_train_config", None) or files.lm_config
        lm_parameters = options.pop("lm_file", None) or files.lm_parameters
        if lm_config is not None and options.get("lm_weight", 1.0) != 0:
            if lm_parameters is None or not Path(lm_parameters).is_file():
                raise ModelError(f"{lm_config}: its parameters (lm_file) are missing")
            lm_options = read_options(Path(lm_config), files.roots)
            mended = config.with_name("mended_lm_config.yaml")
            mended.write_text(yaml.safe_dump(lm_options), encoding="utf-8")
            options["lm_train_config"] = str(mended)
        search = espnet.Speech2Text(
            asr_train_config=str(config), device=self.device, nbest=1, **options
        )
        if "lm_train_config" in options:
            if search.beam_search is None:
                lm = search.beam_search_transducer.lm
            else:
                lm = search.beam_search.scorers.get("lm")
            if lm is not None:
                state = read_parameters(Path(lm_parameters))
                lm.load_state_dict(
                    {k[3:]: v for k, v in state.items() if k.startswith("lm.")}
                )
        return search

    def _prepare_text(self) -> None:
        preprocess = asr_task.ASRTask.build_preprocess_fn(self.args, False)
        self._preprocess = preprocess
        self.tokenizer = getattr(preprocess, "tokenizer", None)
        if self.tokenizer is None:
            bpemodel = self.args.bpemodel if self.args.token_type == "bpe" else None
            self.tokenizer = build_tokenizer(self.args.token_type, bpemodel)
        self.converter = TokenIDConverter(token_list=self.model.token_list)

    def set_stride(self, stride: float) -> None:
        """Downsample at another overall rate from now on: ``model.set_stride``."""
        set_stride(self.model, self.args, stride)

    def set_block(self, seconds: float) -> None:
        """Place blocks of another length from now on: ``model.set_block``."""
        set_block(self.model, self.args, seconds)

    @torch.no_grad()
    def encode(
        self, wave: np.ndarray, name: str = "the recording", times: bool = True
    ) -> Encoded:
        """Encode one utterance.

        Args:
            wave: (samples,) float32 at ``self.rate``.
            name: for messages.
            times: say when the frames are, too.

        Raises:
            AudioError: if it is too short or too long for the model.
            UnknownTimesError: if the times are wanted and not known.
        """
        self._check_length(len(wave), name)
        self._check_memory(len(wave) / self.rate, name)
        given = self.model_input(wave, name)
        # a copy: ESPnet normalises features in place
        speech = torch.tensor(given).unsqueeze(0).to(self.device)
        lengths = torch.tensor([len(given)], device=self.device)
        try:
            frames, frame_lengths = self.model.encode(speech, lengths)
        except TooShortUttError as error:
            raise AudioError(
                f"{name}: too short for this model: {error.actual_size} frames, and "
                f"{error.limit} are needed"
            ) from None
        frames = main_frames(frames)[:, : int(frame_lengths[0])]
        trace = () if self.layer is None else self.layer.take_trace()
        grid = None
        if self.upstream is not None:
            record = self.upstream.record
            grid = FeatureGrid(len(given), record.step, record.centre / record.rate)
        placed = None
        if times:
            count = int(frame_lengths[0])
            placed = frame_times(self.model, trace, len(wave), self.rate, count, grid)
        log_probs = None
        if self.model.ctc is not None:
            log_probs = self.model.ctc.log_softmax(frames)[0].float().cpu()
        return Encoded(frames[0], log_probs, placed, given)

    def _frontend(self) -> Optional[FrontendFrames]:
        """Return what is known of the frontend's frames; None: nothing, or none."""
        if self.model.frontend is None:
            return None
        try:
            return frontend_frames(self.model.frontend)
        except UnknownTimesError:
            return None

    def _check_length(self, samples: int, name: str) -> None:
        known = self._frontend()
        if known is None:
            return
        given = f"for this model: {samples} samples at {self.rate} Hz"
        if samples < known.least:
            raise AudioError(f"{name}: too short {given}, and {known.least} are needed")
        if known.most is not None and samples > known.most:
            raise AudioError(
                f"{name}: too long {given}, and frontend {known.words} hears the first "
                f"{known.most} ({known.most / self.rate:g} s): cut it (--max_segment)"
            )

    def attention_bytes(self, seconds: float) -> float:
        """Return about how much memory attention takes over a piece; 0: unknown.

        An encoder's layer has a few matrices (heads, T', T') of float32 at a time; with
        relative positions, of which one is twice as wide, they are :data:`MATRICES`.
        """
        heads = max(
            (int(getattr(m, "h", 0)) for m in self.model.encoder.modules()), default=0
        )
        try:
            frames = seconds / self.step / self.overall_stride()
        except (AttributeError, UnknownTimesError):
            return 0.0
        return 4.0 * MATRICES * heads * frames**2

    def overall_stride(self) -> float:
        """Return input frames per encoder frame."""
        return overall_stride(getattr(self.model.encoder, "embed", None))

    def _check_memory(self, seconds: float, name: str) -> None:
        """Refuse, before it starts, what would not fit into memory."""
        needed = self.attention_bytes(seconds)
        if needed < CHECKED_BYTES:
            return
        free = free_memory(self.device)
        if free is not None and needed > free:
            most = seconds * (0.5 * free / needed) ** 0.5
            raise AudioError(
                f"{name}: a piece of {seconds:.0f} s needs about {needed / 1e9:.1f} GB "
                f"for attention, and {free / 1e9:.1f} GB are free; cut it into pieces "
                f"of {most:.0f} s or less (--max_segment)"
            )

    @property
    def step(self) -> float:
        """Seconds from one feature frame to the next.

        Raises:
            UnknownTimesError: if that is not known.
        """
        if self.upstream is not None:
            return self.upstream.record.step
        return frontend_frames(self.model.frontend).rule.hop / self.rate

    def why_no_times(self) -> Optional[str]:
        """Say why the times of the frames are not known; None: they are.

        With ESPnet's own input layers they are spread evenly if need be.
        """
        return None if self.layer is None else why_unknown(self.model)

    def why_uniform(self) -> Optional[str]:
        """Say why there are no adaptive strides to look at; None if there are."""
        if self.layer is None:
            word = (self.args.encoder_conf or {}).get("input_layer", "conv2d")
            return f"input_layer is {word}, whose strides are uniform"
        if not any(downsampler_class(m).has_positions for m in self.layer.methods):
            names = ", ".join(dict.fromkeys(self.layer.methods))
            return f"its strides are uniform ({names}): there are no positions"
        return self.why_no_times()

    def describe_strides(self) -> str:
        """Return methods and overall rate, e.g. ``adastride, 8x``."""
        # one word if all stages share it
        words = self.layer.methods
        words = words if len(set(words)) > 1 else words[:1]
        stride = float(np.prod(self.layer.current_strides()))
        text = f"{', '.join(words)}, {stride:g}x"
        if self.layer.later.restore:
            text += f", back to {float(np.prod(self.layer.output_strides())):g}x"
        return text

    def model_input(self, wave: np.ndarray, name: str = "the recording") -> np.ndarray:
        """Return what the model reads of samples (n,): these, or features (T, F).

        Raises:
            AudioError: if the upstream cannot use the samples.
        """
        if self.upstream is None:
            return self.prepare_wave(wave)
        with located(name, ModelError, AudioError):
            return self.upstream(wave)

    def prepare_wave(self, wave: np.ndarray) -> np.ndarray:
        """Return the samples as training saw them (``speech_volume_normalize``)."""
        volume = getattr(self._preprocess, "speech_volume_normalize", None)
        peak = float(np.abs(wave).max()) if volume is not None else 0.0
        return wave if peak == 0 else (wave * volume / peak).astype(np.float32)

    def to_text(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""
        return self.tokenizer.tokens2text(list(tokens))

    def tokens_of_words(
        self, text: str
    ) -> Tuple[List[str], List[int], List[Optional[int]]]:
        """Return the words of a transcript, its token ids, and each token's word.

        Words are cut into tokens one by one; where the model has a token for spaces,
        one stands between words and belongs to none.

        Raises:
            ModelError: if most tokens are not known to the model.
        """
        cleaner = getattr(self._preprocess, "text_cleaner", None)
        words = (text if cleaner is None else cleaner(text)).split()
        space = getattr(self.tokenizer, "space_symbol", None)
        between = self.args.token_type == "char" and space in self.model.token_list
        tokens: List[str] = []
        owners: List[Optional[int]] = []
        for index, word in enumerate(words):
            if index and between:
                tokens.append(space)
                owners.append(None)
            pieces = self.tokenizer.text2tokens(word)
            tokens += pieces
            owners += [index] * len(pieces)
        ids = self.converter.tokens2ids(tokens)
        # neither a space nor SentencePiece's mark of a word's beginning says a thing
        spoken = [
            i
            for i, token, owner in zip(ids, tokens, owners)
            if owner is not None and token != "\u2581"
        ]
        unknown = sum(i == self.converter.unk_id for i in spoken)
        if 2 * unknown > len(spoken):
            some = [t for t in self.model.token_list if not t.startswith("<")][:5]
            raise ModelError(
                f"{unknown} of {len(spoken)} tokens are unknown to the model, whose "
                f"tokens are like {' '.join(some)}: write the transcript in that way"
            )
        return words, ids, owners
