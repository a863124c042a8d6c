"""Transcribe a recording with a trained model while it is spoken.

    streamer = Streamer(TrainedModel("exp/asr_train_..._streaming"))
    for samples in microphone:          # any number
        streamer.push(samples)
        print(streamer.text())
    streamer.push(samples, final=True)

Samples are collected until the feature frames of a block and its look-ahead are known:
``(b + LOOK_AHEAD)`` frames and half a window of the Fourier transform. Each block then
goes through frontend, input layer and encoder in one piece: the result is identical
however the samples arrive. The encoder's frames do not change later; the text is greedy
CTC's, and grows at its end.
"""

import math
import time
from typing import Callable, List, Optional, Tuple

import numpy as np
import torch

from espnet_adastride.corpora.recordings import is_silent, prepare
from espnet_adastride.errors import AudioError, ConfigurationError
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.blocks import LOOK_AHEAD
from espnet_adastride.plugin.contextual import STREAM, begin_stream
from espnet_adastride.plugin.frame_times import FrameTimes, encoder_boundaries
from espnet_adastride.plugin.frontends import frontend_frames, keeps_frames
from espnet_adastride.plugin.trained import Encoded, TrainedModel
from espnet_adastride.timing.ctc import (
    Timed,
    path_spans,
    timed_tokens,
    timed_words,
    words_of_tokens,
)
from espnet_adastride.timing.latency import Clock, Latency

#: how a model for streaming is trained
FIX = (
    "train encoder: contextual_block_conformer with input_layer_conf: {block: 2} "
    "(conf/train_asr_mini_streaming.yaml, docs/streaming.md)"
)


def why_not_streaming(trained: TrainedModel) -> Optional[str]:
    """Return why a model needs whole utterances, with the fix; None: it streams."""
    model, layer = trained.model, trained.layer
    kinds = (
        espnet.ContextualBlockConformerEncoder,
        espnet.ContextualBlockTransformerEncoder,
    )
    if trained.upstream is not None or model.frontend is None:
        return f"the model reads extracted features; {FIX} on audio"
    if not isinstance(model.encoder, kinds):
        word = trained.args.encoder
        return f"encoder {word} attends to the whole utterance; {FIX}"
    if layer is None:
        word = (trained.args.encoder_conf or {}).get("input_layer", "conv2d")
        return (
            f"input_layer {word} is ESPnet's own: decode with "
            f"espnet2.bin.asr_inference_streaming, or {FIX}"
        )
    if layer.blocks is None:
        return f"the input layer places a whole utterance at once; {FIX}"
    if not model.encoder.block_size:
        return "encoder_conf: block_size 0 attends to the whole utterance; give 40"
    if model.ctc is None:
        return (
            "the model has no CTC branch (ctc_weight 0), which --stream reads; train "
            "with model_conf: ctc_weight above 0"
        )
    if getattr(model.frontend, "stft", None) is None:
        return (
            f"frontend {trained.args.frontend} needs whole recordings; train with "
            "frontend: default"
        )
    if not model.frontend.stft.center:
        return "frontend_conf: center: false is not supported; leave it out"
    if not keeps_frames(model.preencoder) or model.postencoder is not None:
        return (
            "a preencoder or postencoder that changes the frames does not stream; "
            "train without it"
        )
    if type(model.normalize).__name__ not in ("GlobalMVN", "NoneType"):
        return (
            f"normalize {trained.args.normalize} takes the mean of the whole utterance;"
            " train with normalize: global_mvn"
        )
    volume = getattr(trained.args, "speech_volume_normalize", None)
    if volume is not None:
        return (
            "speech_volume_normalize needs the loudest sample of the whole recording; "
            "train without"
        )
    return None


class Features:
    """The frames of a model's frontend, while samples arrive.

    A frame is returned once all samples that it depends on have arrived. Frames are
    computed in groups of a fixed size, however the samples arrive.

    Args:
        model: ESPnetASRModel with the frontend ``default``.
        group: frames of a group; the first has ``LOOK_AHEAD`` more.
    """

    def __init__(self, model: torch.nn.Module, group: int):
        self.model, self.group = model, group
        self.known = frontend_frames(model.frontend)
        self.hop = int(self.known.rule.hop)
        self.half = math.ceil(self.known.rule.field / 2)
        # frames before the first new one, which must not see an edge
        self.guard = math.ceil(self.half / self.hop) + 1
        self.held = np.zeros(0, dtype=np.float32)
        self.begin = 0  # index of the first held sample
        self.made = 0  # frames

    @property
    def arrived(self) -> int:
        """Samples that have arrived."""
        return self.begin + len(self.held)

    def push(self, samples: np.ndarray) -> None:
        """Take samples (n,) float32."""
        self.held = np.concatenate([self.held, samples])

    def next_group(self) -> Optional[torch.Tensor]:
        """Return the next group's features (1, t, F); None: more samples are needed."""
        end = self.made + self.group + (LOOK_AHEAD if self.made == 0 else 0)
        # the end of the samples that the last frame sees
        last = (end - 1) * self.hop + self.half
        return self._frames(end, last) if last <= self.arrived else None

    def rest(self) -> Optional[torch.Tensor]:
        """Return the remaining frames when all samples have arrived; None: too few."""
        if self.arrived < self.known.least:
            return None
        return self._frames(self.known.length(self.arrived), self.arrived)

    def _frames(self, end: int, last: int) -> torch.Tensor:
        """Return frames from the next one to ``end``, of samples up to ``last``."""
        first = max(self.made - self.guard, 0)
        samples = self.held[first * self.hop - self.begin : last - self.begin]
        speech = torch.from_numpy(samples.copy()).unsqueeze(0)
        speech = speech.to(next(self.model.parameters()).device)
        lengths = torch.tensor([len(samples)], device=speech.device)
        # as ESPnet's encode(): in half precision, the spectrum would overflow
        with torch.autocast(speech.device.type, enabled=False):
            features, lengths = self.model._extract_feats(speech, lengths)
        if self.model.normalize is not None:
            features, lengths = self.model.normalize(features, lengths)
        if self.model.preencoder is not None:
            features, lengths = self.model.preencoder(features, lengths)
        features = features[:, self.made - first : end - first]
        self.made = end
        cut = max(self.made - self.guard, 0) * self.hop - self.begin
        self.held, self.begin = self.held[cut:], self.begin + cut
        return features


class Streamer:
    """One recording while it arrives.

    Args:
        trained: the model.
        clock: returns seconds, for latencies; by default the machine's.

    Attributes:
        tokens: with times; the last one may still become longer.
        silent: whether everything so far was silence; there are no tokens then.
        shown: when each token appeared, in seconds after the first sample, as
            :mod:`espnet_adastride.timing.latency` counts.

    Raises:
        ConfigurationError: if the model needs whole utterances, or its blocks are too
            short for its stride.
    """

    def __init__(
        self, trained: TrainedModel, clock: Callable[[], float] = time.perf_counter
    ):
        reason = why_not_streaming(trained)
        if reason is not None:
            raise ConfigurationError(f"this model does not stream: {reason}")
        self.trained, self._time = trained, clock
        # from here on, another block or stride of the model would not fit
        self._states = begin_stream(trained.layer)
        self._features = Features(trained.model, self._states[STREAM].block)
        rule = self._features.known.rule
        self.step = rule.hop / trained.rate
        self._start = rule.centre / trained.rate - self.step / 2
        self._blocks_made = 0  # feature frames of the complete blocks
        self._edges = [0.0]  # seconds between the frames of these blocks
        self._path: List[int] = []
        self._scores: List[float] = []
        self._is_open = False  # whether the last token may become longer
        self._open = 0  # its first frame, or else the first that is not decoded
        self._frames: List[torch.Tensor] = []
        self.tokens: List[Timed] = []
        self.shown: List[float] = []
        self.clock, self.final, self.silent = Clock(), False, True

    @property
    def seconds(self) -> float:
        """Seconds of audio that have arrived."""
        return self._features.arrived / self.trained.rate

    @torch.no_grad()
    def push(self, samples: np.ndarray, final: bool = False) -> int:
        """Take new samples and decode what they complete.

        Args:
            samples: (n,) floats in [-1, 1] at the model's rate, n >= 0.
            final: whether they are the last.

        Returns:
            Encoder frames that became final.

        Raises:
            AudioError: if the samples are no such numbers; the stream continues
                without them.
            RuntimeError: if the stream has ended.
        """
        if self.final:
            raise RuntimeError("the stream has ended: make another Streamer")
        begin, count = self._time(), len(self._path)
        samples = self._checked(samples)
        self._features.push(samples)
        self.final, self.silent = final, self.silent and is_silent(samples)
        arrived = self.seconds
        while (group := self._features.next_group()) is not None:
            self._encode(group, False)
        rest = self._features.rest() if final else None
        if rest is not None:
            self._encode(rest, True)
        made = len(self._path) - count
        if (made or final) and not self.silent:
            self._read()
        now = self.clock.work(arrived, self._time() - begin)
        self.shown += [now] * (len(self.tokens) - len(self.shown))
        return made

    def _checked(self, samples: np.ndarray) -> np.ndarray:
        samples, rate = np.asarray(samples), self.trained.rate
        if samples.ndim != 1:
            raise AudioError(
                f"a stream's samples must be (n,), of one channel, got {samples.shape};"
                " take one channel, or their mean"
            )
        if not len(samples):
            return samples.astype(np.float32)
        return prepare(samples, rate, rate, "the stream")

    def _encode(self, features: torch.Tensor, final: bool) -> None:
        model, layer = self.trained.model, self.trained.layer
        lengths = torch.tensor([features.size(1)], device=features.device)
        with self.trained.lock:
            frames, _, self._states = model.encoder(
                features, lengths, self._states, is_final=final, infer_mode=True
            )
            trace = layer.take_trace()
        self._place(trace, final)
        if frames.size(1):
            best, path = model.ctc.log_softmax(frames)[0].float().max(dim=1)
            self._path += path.tolist()
            self._scores += best.tolist()
            if self.trained.search is not None:
                self._frames.append(frames[0])

    def _place(self, trace, final: bool) -> None:
        """Add the times of the frames of the blocks that are complete."""
        ended = self._features.made if final else self._features.made - LOOK_AHEAD
        count = ended - self._blocks_made
        inner, _ = encoder_boundaries(self.trained.layer, trace, count)
        edges = self._start + (self._blocks_made + inner) * self.step
        edges = np.clip(edges, 0.0, self.seconds)
        if not self._blocks_made:
            edges[0] = 0.0
        if final:
            edges[-1] = self.seconds
        self._edges[-1:] = edges.tolist()
        self._blocks_made = ended

    def _read(self) -> None:
        """Decode from the last token on, which may have become longer."""
        blank = self.trained.model.blank_id
        first = self._open
        spans = path_spans(self._path[first:], blank)
        edges = np.array(self._edges[first : len(self._path) + 1])
        read = timed_tokens(
            spans, self._scores[first:], edges, self.trained.model.token_list
        )
        if self._is_open:
            self.tokens.pop()  # it is decoded again
        self.tokens += read
        self._is_open = bool(spans) and first + spans[-1].end == len(self._path)
        self._open = first + spans[-1].first if self._is_open else len(self._path)

    # ------------------------------------------------------------------ results
    def text(self) -> str:
        """Return the text so far."""
        names = [token.text for token in self.tokens]
        return " ".join(self.trained.to_text(names).split())

    def words(self) -> Tuple[List[Timed], List[float]]:
        """Return the words so far with their times, and when each was shown."""
        names = [token.text for token in self.tokens]
        words, owners = words_of_tokens(names, self.trained.to_text)
        shown = [0.0] * len(words)
        for owner, when in zip(owners, self.shown):
            if owner is not None:
                shown[owner] = max(shown[owner], when)
        return timed_words(words, owners, self.tokens), shown

    @torch.no_grad()
    def searched(self) -> Tuple[Encoded, list]:
        """Return the frames, and the result of ESPnet's beam search over them.

        For a model with a search, after the end of the stream.
        """
        begin, trained = self._time(), self.trained
        edges = self.boundaries()
        times = FrameTimes(edges, edges, edges)
        if not self._frames or self.silent:  # too short, or nothing to search
            none = trained.model.ctc.ctc_lo.weight.new_zeros(0)
            return Encoded(none, None, times), []
        frames = torch.cat(self._frames)
        log_probs = trained.model.ctc.log_softmax(frames[None])[0].float().cpu()
        with trained.lock:
            found = trained.search._decode_single_sample(frames)
        self.clock.work(self.seconds, self._time() - begin)
        return Encoded(frames, log_probs, times), found

    def boundaries(self) -> np.ndarray:
        """Return the (T' + 1,) seconds between the frames that are final."""
        return np.array(self._edges[: len(self._path) + 1])

    def latency(self) -> Latency:
        """Return the latencies, after the end of the stream."""
        words, shown = self.words()
        return Latency(
            [when - word.end for word, when in zip(words, shown)],
            self.clock.now - self.seconds,
            self.seconds,
            self.clock.spent,
            self.clock.longest,
        )
