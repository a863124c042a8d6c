"""A trained ESPnet ASR model that encodes recordings: :class:`TrainedModel`.

``model_files.py`` finds and reads its files, ``transcribe.py`` transcribes with it,
``streaming.py`` while somebody speaks.
"""

import math
import tempfile
import threading
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import yaml

from espnet_adastride.corpora.features import Upstream, rebuild_upstream
from espnet_adastride.corpora.lengths import find_lengths
from espnet_adastride.corpora.tokens import check_pieces
from espnet_adastride.corpora.upstream_record import RECORD_NAME, read_record
from espnet_adastride.errors import (
    AudioError,
    ConfigurationError,
    ModelError,
    UnknownTimesError,
    located,
)
from espnet_adastride.files import PathLike
from espnet_adastride.memory import too_little
from espnet_adastride.options import parse_rate, refuse_wide_beam
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
    frontend_frames,
    frontend_if_known,
    why_unknown,
)
from espnet_adastride.plugin.greedy import main_frames
from espnet_adastride.plugin.model import input_layer, set_block, set_stride
from espnet_adastride.plugin.model_files import (
    ModelFiles,
    check_task,
    find_files,
    read_inference_config,
    read_options,
    read_parameters,
)

#: matrices of a layer's attention that are in memory at a time (measured: 5 to 6)
MATRICES = 6


class Encoded(NamedTuple):
    """An utterance after the encoder.

    Attributes:
        frames: (T', D).
        log_probs: (T', V) of the CTC branch, on the CPU; None: there is no such branch.
        times: of the frames; None: not wanted.
        speech: the model's input: samples (n,), or extracted features (T, F).
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
        stride: overall stride, for methods with real strides; None: as trained.
        upstream_model: folder of the pretrained encoder whose features the model
            reads, if it has moved since training.
        block: seconds of a block, for layers with ``block``; None: as trained.

    Attributes:
        model: ESPnetASRModel, in evaluation mode.
        args: its options.
        rate: samples per second that it expects.
        upstream: extracts the features that it reads (``--feats_type extracted``);
            None: it reads samples.
        search: ESPnet's Speech2Text, or None: greedy CTC.
        lengths: of its training utterances; None: not known.
        lock: held while the network computes: ESPnet's attention and the input layer
            keep values of a batch as attributes, which threads would mix up.

    Raises:
        UserError, ModelError: for a model that cannot be found or read.
        ConfigurationError: for a configuration that does not fit it.
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
        try:
            kind = torch.device(device).type
        except (RuntimeError, TypeError):
            raise ConfigurationError(
                f"device {device!r}: give cpu, cuda or, e.g., cuda:1"
            ) from None
        if kind != "cpu" and not torch.cuda.is_available():
            raise ConfigurationError(f"device {device}: there is no GPU; use cpu")
        self.device, self.search, self.lock = device, None, threading.Lock()
        # kept as long as the model: tokenizers open their files late
        self._scratch = tempfile.TemporaryDirectory(prefix="adastride-")
        scratch = Path(self._scratch.name)
        files = find_files(model, asr_model_file, scratch)
        options = read_options(files.config, files.roots)
        check_task(files.config, options)
        self.upstream = self._load_upstream(files, options, upstream_model)
        self.lengths = find_lengths(options, files.config.parent, files.roots)
        state = read_parameters(files.parameters)
        has_ctc = any(key.startswith("ctc.") for key in state)
        if inference_config is None and not has_ctc:
            tokens = len(options["token_list"])
            inference_config = {"ctc_weight": 0.0, "beam_size": min(10, tokens)}
        config = scratch / "config.yaml"
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
                f"{options['input_size']}), and {RECORD_NAME}, which describes them, "
                "is not beside it: copy it from dump/extracted/<training set>/"
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
                raise ModelError(
                    f"{lm_config}: the language model's parameters are missing; give "
                    "lm_file, or lm_weight: 0"
                )
            lm_options = read_options(Path(lm_config), files.roots)
            own = config.with_name("lm_config.yaml")
            own.write_text(yaml.safe_dump(lm_options), encoding="utf-8")
            options["lm_train_config"] = str(own)
        search = espnet.Speech2Text(
            asr_train_config=str(config), device=self.device, nbest=1, **options
        )
        where = "inference_config"
        if isinstance(inference_config, (str, Path)):
            where = str(inference_config)
        beam = getattr(search.beam_search, "beam_size", 0)
        refuse_wide_beam(beam, len(search.asr_model.token_list), where)
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
        if self.args.token_type == "bpe":
            check_pieces(self.args.bpemodel, self.model.token_list)
        preprocess = asr_task.ASRTask.build_preprocess_fn(self.args, False)
        self._preprocess = preprocess
        self.tokenizer = getattr(preprocess, "tokenizer", None)
        if self.tokenizer is None:
            bpemodel = self.args.bpemodel if self.args.token_type == "bpe" else None
            self.tokenizer = build_tokenizer(self.args.token_type, bpemodel)
        self.converter = TokenIDConverter(token_list=self.model.token_list)

    def set_stride(self, stride: float) -> None:
        """Set another overall stride: ``model.set_stride``."""
        set_stride(self.model, self.args, stride)

    def set_block(self, seconds: float) -> None:
        """Set another length of blocks: ``model.set_block``."""
        set_block(self.model, self.args, seconds)

    @torch.no_grad()
    def encode(
        self, wave: np.ndarray, name: str = "the recording", times: bool = True
    ) -> Encoded:
        """Encode one utterance.

        Args:
            wave: (samples,) float32 at ``self.rate``.
            name: for messages.
            times: return the times of the frames, too.

        Raises:
            AudioError: if it is too short or too long for the model.
            UnknownTimesError: if ``times`` and they are not known.
        """
        self._check_length(len(wave), name)
        self._check_memory(len(wave) / self.rate, name)
        given = self.model_input(wave, name)
        # a copy: ESPnet normalises features in place
        speech = torch.tensor(given).unsqueeze(0).to(self.device)
        lengths = torch.tensor([len(given)], device=self.device)
        try:
            with self.lock:
                frames, frame_lengths = self.model.encode(speech, lengths)
                trace = () if self.layer is None else self.layer.take_trace()
        except TooShortUttError as error:
            raise AudioError(
                f"{name}: too short for this model: {error.actual_size} frames, and "
                f"{error.limit} are needed"
            ) from None
        frames = main_frames(frames)[:, : int(frame_lengths[0])]
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

    def _check_length(self, samples: int, name: str) -> None:
        known = frontend_if_known(self.model.frontend)
        if known is None:
            return
        given = f"for this model: {samples} samples at {self.rate} Hz"
        if samples < known.least:
            raise AudioError(f"{name}: too short {given}, and {known.least} are needed")
        if known.most is not None and samples > known.most:
            raise AudioError(
                f"{name}: too long {given}, and frontend {known.words} encodes only "
                f"the first {known.most} ({known.most / self.rate:g} s): cut it "
                "(--max_segment)"
            )

    def attention_bytes(self, seconds: float) -> float:
        """Return an estimate of the memory of attention over a piece; 0: unknown.

        An encoder's layer has :data:`MATRICES` matrices (heads, T', T') of float32 at a
        time, with relative positions, of which one is twice as wide. The first block
        has the most frames. Encoders that attend within blocks have no such matrices.
        """
        if getattr(self.model.encoder, "block_size", 0):
            return 0.0
        heads = max(
            (int(getattr(m, "h", 0)) for m in self.model.encoder.modules()), default=0
        )
        try:
            frames = seconds / self.step / self.first_stride()
        except (AttributeError, UnknownTimesError):
            return 0.0
        return 4.0 * MATRICES * heads * frames**2

    def overall_stride(self) -> float:
        """Return input frames per encoder frame."""
        return overall_stride(getattr(self.model.encoder, "embed", None))

    def first_stride(self) -> float:
        """Return input frames per frame of the encoder's first block."""
        if self.layer is None:
            return self.overall_stride()
        return math.prod(stage.current_stride() for stage in self.layer.downsamplers)

    def _check_memory(self, seconds: float, name: str) -> None:
        """Reject what would not fit into memory, before it starts."""
        needed = self.attention_bytes(seconds)
        free = too_little(needed, self.device)
        if free is not None:
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
            UnknownTimesError: if it is not known.
        """
        if self.upstream is not None:
            return self.upstream.record.step
        return frontend_frames(self.model.frontend).rule.hop / self.rate

    def why_no_times(self) -> Optional[str]:
        """Return why the times of the frames are not known; None: they are.

        With ESPnet's own input layers they are spread evenly if necessary.
        """
        return None if self.layer is None else why_unknown(self.model)

    def why_uniform(self) -> Optional[str]:
        """Return why there are no adaptive strides; None: there are."""
        if self.layer is None:
            word = (self.args.encoder_conf or {}).get("input_layer", "conv2d")
            return f"input_layer is {word}, whose strides are uniform"
        if not self.layer.has_positions():
            names = ", ".join(dict.fromkeys(self.layer.methods))
            return f"its strides are uniform ({names}): there are no positions"
        return self.why_no_times()

    def describe_strides(self) -> str:
        """Return methods and overall rate, e.g. ``adastride, 8x``."""
        return self.layer.describe()

    def model_input(self, wave: np.ndarray, name: str = "the recording") -> np.ndarray:
        """Return the model's input for samples (n,): these, or features (T, F).

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
        peak = 0.0 if volume is None else float(np.abs(wave).max(initial=0.0))
        return wave if peak == 0 else (wave * volume / peak).astype(np.float32)

    def to_text(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""
        return self.tokenizer.tokens2text(list(tokens))

    def tokens_of_words(
        self, text: str
    ) -> Tuple[List[str], List[int], List[Optional[int]]]:
        """Return the words of a transcript, its token ids, and each token's word.

        Words are cut into tokens one by one. A token for spaces, if the model has one,
        is put between words and belongs to none.

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
        # without spaces and SentencePiece's mark of a word's beginning
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
