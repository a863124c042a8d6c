"""A trained model as one program: features to CTC log probabilities, and positions.

The program reads what the model's frontend (or its pretrained encoder) gives, for one
utterance of any length. It contains normalisation, preencoder, input layer, encoder and
CTC, but no masks, dropout or other parts of training. ESPnet's own ``forward`` builds
masks from lists of lengths, which no exporter can trace. So the encoder's blocks are
called here one after the other, and the command compares the result with ESPnet's.
"""

import math
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Tuple

import numpy as np
import torch

from espnet_adastride.deployment import conversion, description
from espnet_adastride.downsampling.exportable import Exportable, export_program
from espnet_adastride.downsampling.output import whole_lengths
from espnet_adastride.errors import ConfigurationError, ModelError
from espnet_adastride.files import PathLike
from espnet_adastride.networks.unpacking import opened
from espnet_adastride.plugin import encoders
from espnet_adastride.plugin.espnet import check_short_utt
from espnet_adastride.plugin.frame_times import _convolutions
from espnet_adastride.plugin.frontends import frontend_frames, keeps_frames
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.plugin.trained import TrainedModel
from espnet_adastride.plugin.true_times import log_strides, next_times
from espnet_adastride.quiet import quiet_imports
from espnet_adastride.timing.convolutions import stack

ENCODERS = (
    encoders.ConformerEncoder,
    encoders.EBranchformerEncoder,
    encoders.BranchformerEncoder,
    encoders.TransformerEncoder,
)
#: kinds of tokens whose text the reader can write without ESPnet
TOKEN_TYPES = ("bpe", "char", "word")
#: the fewest frames that ESPnet's encoders take with a Conv2dSubsampling, which the
#: plugin's input layer is; :func:`least_frames` for others
LEAST_FRAMES = 7
#: largest difference of a log probability from ESPnet's
TOLERANCE = 1e-3


def sinusoids(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Return ESPnet's positional encoding (T, size) of float32 positions (T,)."""
    even = torch.arange(0, size, 2, device=positions.device).to(torch.float32)
    angles = positions.unsqueeze(1) * torch.exp(even * -(math.log(10000.0) / size))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def encode_positions(encoding: torch.nn.Module, x: torch.Tensor):
    """Return a positional encoding's result for x (1, T, D), of any T, without a table.

    ESPnet looks it up in a table that it extends on demand: in a file, the table would
    be larger than the model.
    """
    steps, size = x.size(1), x.size(2)
    kind = type(encoding).__name__
    if kind == "RelPositionalEncoding":
        places = (steps - 1) - torch.arange(2 * steps - 1, device=x.device)
        table = sinusoids(places.to(torch.float32), size).unsqueeze(0)
        return x * encoding.xscale, table.to(x.dtype)
    table = sinusoids(torch.arange(steps, device=x.device).to(torch.float32), size)
    if kind == "ScaledPositionalEncoding":
        return x + encoding.alpha * table
    return x * encoding.xscale + table


class CTCProgram(torch.nn.Module):
    """A model as a function of one utterance's features.

    Args:
        model: ESPnetASRModel with a CTC branch, in evaluation mode.

    Raises:
        ConfigurationError: in one line, for a part that is not supported.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        check_parts(model)
        self.normalize, self.preencoder = model.normalize, model.preencoder
        self.encoder, self.output = model.encoder, model.ctc.ctc_lo
        embed = model.encoder.embed
        self.stages = torch.nn.ModuleList()
        # read before tracing: a learned stride is a number of the program
        self.strides: List[float] = []
        if isinstance(embed, AdaptiveSubsampling):
            self.stages.extend(map(Exportable, embed.downsamplers))
            self.strides = embed.current_strides()

    def forward(self, features: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Return log probabilities (1, T', V), then every stage's positions (1, T).

        Without those of stages whose rate is restored: times do not need them.

        Args:
            features: (1, T, F), T of LEAST_FRAMES or more.
        """
        x = self.normalized(features)
        if self.preencoder is not None:
            lengths = torch.full((1,), x.size(1), dtype=torch.int64)
            x, _ = self.preencoder(x, lengths)
        x, positions = self.shortened(x)
        x, placed = self.through_blocks(x)
        positions += placed
        if getattr(self.encoder, "normalize_before", True):
            x = self.encoder.after_norm(x)
        return (torch.log_softmax(self.output(x), dim=2), *positions)

    def normalized(self, x):
        """Return x normalised as by ESPnet's GlobalMVN or UtteranceMVN."""
        norm = self.normalize
        if norm is None:
            return x
        if type(norm).__name__ == "GlobalMVN":
            x = x - norm.mean.to(x) if norm.norm_means else x
            return x / norm.std.to(x) if norm.norm_vars else x
        mean = x.mean(dim=1, keepdim=True)
        deviation = (x - mean).square().mean(dim=1, keepdim=True).sqrt()
        x = x - mean if norm.norm_means else x
        return x / deviation.clamp(min=norm.eps) if norm.norm_vars else x

    def shortened(self, x):
        """Return the input layer's output, positions encoded, and its positions."""
        embed, positions = self.encoder.embed, []
        if not isinstance(embed, AdaptiveSubsampling):
            x = embed.conv(x.unsqueeze(1)).transpose(1, 2).flatten(2)
            linear, encoding = _end(embed)
            return encode_positions(encoding, linear(x)), positions
        times = embed.start_times(x)
        for convolution, stage in zip(embed.conv, self.stages):
            given = x
            x, placed = stage(convolution(x))
            positions += [] if placed is None else [placed]
            if times is not None:
                lengths, shorter, _ = whole_lengths(given, stage.stride)
                times = next_times(times, placed, lengths, shorter, x.size(1), True)
        x = embed.out[0](x)
        if embed.stride_vector is not None:
            told = log_strides(times, shorter)
            x = x + told.to(x.dtype).unsqueeze(2) * embed.stride_vector
        if embed.true_times:
            times = times / math.prod(self.strides)
            return embed.out[1](x, times), positions
        return encode_positions(embed.out[1], x), positions

    def through_blocks(self, x):
        """Return the last block's output and the positions of the stages after blocks.

        ``forward`` of the blocks is called, because the stages' hooks need masks.
        """
        embed = self.encoder.embed
        later = embed.later if isinstance(embed, AdaptiveSubsampling) else []
        restore = later.restore if later else False
        strides = self.strides[len(self.stages) :]
        held = []
        for number, block in enumerate(self.encoder.encoders, 1):
            x, _ = block.forward(x, None)
            for stage, stride in zip(later, strides):
                if stage.block == number:
                    shorter, placed = shortened_by(stage, stride, x, embed.out[1])
                    held.append((stage, stride, x, placed))
                    x = shorter
            if number == restore:
                for stage, stride, before, placed in reversed(held):
                    x = restored_by(stage, stride, before, x, placed)
        kept = [] if restore else [placed for *_, placed in held]
        x = x[0] if isinstance(x, tuple) else x
        return x, [placed for placed in kept if placed is not None]


def shortened_by(stage, stride, x, encoding):
    """Return what ``LaterStage._shorten`` makes of a block's output, and positions."""
    frames, *place = x if isinstance(x, tuple) else (x,)
    z, positions = stage.downsampler.export_form(stage.given(frames), stride)
    z = z[..., : stage.size]
    return ((z, encode_positions(encoding, z)[1]) if place else z), positions


def restored_by(stage, stride, before, x, positions):
    """Return what ``LaterStage.restored`` makes of the lower rate's output."""
    frames, *place = before if isinstance(before, tuple) else (before,)
    z = x[0] if isinstance(x, tuple) else x
    upsampled = stage.downsampler.export_inverse(z, frames.size(1), positions, stride)
    frames = stage.mixed(frames, upsampled)
    return (frames, *place) if place else frames


def _end(embed):
    """Return the linear layer and the encoding at the end of ESPnet's conv2d."""
    if isinstance(embed.out, torch.nn.Sequential):  # ESPnet 202511
        return embed.out[0], embed.out[1]
    return embed.out, embed.pos_enc


def check_parts(model: torch.nn.Module) -> None:
    """Reject a model that cannot be exported.

    Raises:
        ConfigurationError: naming the part and what is supported.
    """
    if model.ctc is None:
        raise ConfigurationError(
            "this model has no CTC branch (ctc_weight 0), which export needs: "
            "train one with ctc_weight above 0"
        )
    encoder = model.encoder
    if not isinstance(encoder, ENCODERS):
        raise ConfigurationError(
            f"encoder {type(encoder).__name__} cannot be exported; those that can: "
            "conformer, e_branchformer, branchformer, transformer"
        )
    embed = encoder.embed
    stock = type(embed).__name__.startswith("Conv2dSubsampling")
    if isinstance(embed, AdaptiveSubsampling):
        for word, used in (
            ("block", embed.blocks is not None),
            ("exact: false", any(s.lengths_from_content for s in embed.stages())),
        ):
            if used:
                raise ConfigurationError(
                    f"input_layer_conf: {word} cannot be exported; train without it"
                )
        encoding = embed.out[1]
    elif stock:
        encoding = _end(embed)[1]
    else:
        raise ConfigurationError(
            f"input_layer {type(embed).__name__} cannot be exported; those that can: "
            "this plugin's words and ESPnet's conv2d, conv2d1, conv2d2, conv2d6 and "
            "conv2d8"
        )
    known = ("RelPositionalEncoding", "PositionalEncoding", "ScaledPositionalEncoding")
    if type(encoding).__name__ not in (*known, "TrueTimeEncoding"):
        raise ConfigurationError(
            f"positional encoding {type(encoding).__name__} cannot be exported; those "
            "that can: rel_pos with rel_pos_type: latest, abs_pos, scaled_abs_pos"
        )
    for name in ("interctc_use_conditioning", "ctc_trim"):
        if getattr(encoder, name, False):
            raise ConfigurationError(
                f"encoder_conf: {name} cannot be exported; train without it"
            )
    if getattr(model, "postencoder", None) is not None:
        raise ConfigurationError("a postencoder cannot be exported; train without one")
    if not keeps_frames(model.preencoder):
        kind = type(model.preencoder).__name__
        raise ConfigurationError(
            f"preencoder {kind} cannot be exported; those that can: linear, sinc, "
            "layer_sum"
        )
    kind = type(model.normalize).__name__
    if kind not in ("NoneType", "GlobalMVN", "UtteranceMVN"):
        raise ConfigurationError(
            f"normalize {kind} cannot be exported; those that can: global_mvn, "
            "utterance_mvn"
        )


# ------------------------------------------------------------------ description
def describe(trained: TrainedModel) -> Dict[str, Any]:
    """Return what a reader needs in addition to the program, in JSON types.

    Raises:
        ConfigurationError: for a frontend or tokens that are not supported.
    """
    model, args = trained.model, trained.args
    if args.token_type not in TOKEN_TYPES:
        raise ConfigurationError(
            f"token_type {args.token_type} cannot be exported; those that can: "
            f"{', '.join(TOKEN_TYPES)}"
        )
    volume = getattr(trained._preprocess, "speech_volume_normalize", None)
    content: Dict[str, Any] = {
        "tokens": list(model.token_list),
        "token_type": args.token_type,
        "space": getattr(trained.tokenizer, "space_symbol", "<space>"),
        "blank": int(model.blank_id),
        "rate": trained.rate,
        "volume": volume,
        "least_frames": least_frames(model.encoder.embed),
        "stages": _stages(model.encoder.embed),
        "frontend": None,
        "upstream": None,
        "lengths": None,
    }
    if trained.lengths is not None:
        content["lengths"] = [trained.lengths.usual, trained.lengths.longest]
    if trained.upstream is not None:
        from dataclasses import asdict

        record = trained.upstream.record
        if record.upstream != "whisper":
            raise ConfigurationError(
                f"features of {record.words()} come from transformers, which needs "
                "torch: those of upstream whisper can be exported"
            )
        content["upstream"] = {**asdict(record), "layers": list(record.layers)}
        content["size"] = record.dimensions
    else:
        content["frontend"] = _log_mel(model.frontend)
        content["size"] = content["frontend"]["n_mels"]
    return content


def least_frames(embed) -> int:
    """Return the fewest frames of a program: ESPnet's conv2d6 and conv2d8 need more."""
    return max(LEAST_FRAMES, check_short_utt(embed, 0)[1])


def _stages(embed) -> List[Dict[str, Any]]:
    """Return the stride and shift of every stage, and whether it gives positions."""
    if not isinstance(embed, AdaptiveSubsampling):
        rule = stack(_convolutions(embed))
        shift = rule.centre + (1 - rule.hop) / 2
        return [{"stride": rule.hop, "shift": shift, "positions": False}]
    return [
        {
            "stride": stage.current_stride(),
            "shift": stage.frame_shift(),
            "positions": stage.has_positions,
        }
        for stage in embed.stages()[: embed.kept_stages()]
    ]


def _log_mel(frontend) -> Dict[str, Any]:
    stft, logmel = getattr(frontend, "stft", None), getattr(frontend, "logmel", None)
    enhanced = getattr(frontend, "frontend", None)
    beamed = enhanced is not None and (enhanced.use_wpe or enhanced.use_beamformer)
    if stft is None or logmel is None or beamed or not stft.onesided:
        raise ConfigurationError(
            f"frontend {type(frontend).__name__} cannot be exported; those that can: "
            "default (log-mel), and features extracted with upstream whisper"
        )
    if stft.window is None:
        window = torch.ones(stft.win_length)
    else:
        window = getattr(torch, f"{stft.window}_window")(stft.win_length)
    known = frontend_frames(frontend)
    return {
        "kind": "log_mel",
        "n_fft": stft.n_fft,
        "hop": stft.hop_length,
        "center": bool(stft.center),
        "normalized": bool(stft.normalized),
        "log_base": logmel.log_base,
        "n_mels": int(logmel.melmat.size(1)),
        "window": description.pack_array(window.numpy()),
        "mel": description.pack_array(logmel.melmat.numpy()),
        "centre": known.rule.centre,
        "least": known.least,
    }


def check_program(
    run, program: CTCProgram, trained: TrainedModel, least: int = 1
) -> float:
    """Compare an exported program with ESPnet's own encoder; return the difference.

    Args:
        run: features (1, T, F) as an array to log probabilities.
        program: what was exported.
        trained: the model.
        least: the fewest frames that the program takes.

    Raises:
        ModelError: a log probability differs by more than TOLERANCE.
    """
    model, worst = trained.model, 0.0
    rng = np.random.default_rng(0)
    norm = model.normalize
    mean = getattr(norm, "mean", torch.zeros(())).numpy()
    deviation = getattr(norm, "std", torch.ones(())).numpy()
    size = trained.upstream.record.dimensions if trained.upstream else None
    size = size or model.frontend.output_size()
    for steps in (max(30, least), least + 61, least + 400):
        x = rng.standard_normal((1, steps, size)).cumsum(axis=1)
        x = (mean + deviation * x / (1 + x.std(axis=1, keepdims=True))).astype("f")
        with torch.no_grad():
            given, lengths = torch.from_numpy(x.copy()), torch.tensor([steps])
            if norm is not None:
                given, lengths = norm(given, lengths)
            if model.preencoder is not None:
                given, lengths = model.preencoder(given, lengths)
            frames, _, _ = model.encoder(given, lengths)
            frames = frames[0] if isinstance(frames, tuple) else frames
            expected = model.ctc.log_softmax(frames).numpy()
        found = run(x)
        if found.shape != expected.shape:
            raise ModelError(
                f"export: log probabilities of shape {found.shape}, and ESPnet's are "
                f"{expected.shape}: a part of this model is not exported correctly"
            )
        worst = max(worst, float(np.abs(found - expected).max()))
    if not worst <= TOLERANCE:
        raise ModelError(
            f"export: log probabilities differ from ESPnet's by {worst:.2g}, more than "
            f"{TOLERANCE:g}: a part of this model is not exported correctly"
        )
    return worst


def find_card(model: Path) -> str:
    """Return the card of a packed model or an experiment; "" if it has none."""
    content = b""
    if model.is_dir() or model.suffix == ".pth":
        card = (model if model.is_dir() else model.parent) / "README.md"
        content = card.read_bytes() if card.is_file() else b""
    else:
        with opened(model) as members:
            for member in members:
                if str(PurePosixPath(member.name)) == "README.md":
                    content = member.open().read()
    return content.decode("utf-8", errors="replace")


def export(
    model: PathLike,
    output: PathLike,
    format: str = "onnx",
    quantize: str = "none",
    **options: Any,
) -> str:
    """Write the file; return one line on it.

    Args:
        model: an experiment's folder, or a package.
        output: output file.
        format: ``onnx``, or ``torch`` (a ``torch.export`` program).
        quantize: ``none``, or ``int8`` (8-bit weights of linear layers; ``onnx`` only).
        **options: of :class:`TrainedModel`.

    Raises:
        UserError: if the model cannot be exported.
    """
    trained = TrainedModel(model, **options)
    content = describe(trained)
    module = CTCProgram(trained.model).eval()
    example = torch.randn(1, 211, content["size"])
    with quiet_imports():
        program = export_program(module, example, content["least_frames"])
    metadata = description.to_metadata(content, find_card(Path(model)))
    path = Path(output).absolute()
    with tempfile.TemporaryDirectory(prefix=".export", dir=path.parent) as folder:
        made = Path(folder, path.name)
        if format == "torch":
            torch.export.save(program, made, extra_files=metadata)
            run = program.module()

            def log_probs(x):
                return run(torch.from_numpy(x))[0].detach().numpy()

        else:
            names = description.output_names(content["stages"])
            conversion.write_onnx(program, names, metadata, made)
            log_probs = conversion.runner(made)
        stages = (stage["stride"] for stage in content["stages"])
        # a .pt2 takes two output frames or more
        least = math.floor(math.prod(stages)) + 1 if format == "torch" else 1
        difference = check_program(log_probs, module, trained, least)
        if quantize == "int8":
            conversion.quantize(made)
        os.replace(made, path)
    size = path.stat().st_size / 2**20
    line = (
        f"{output}: {size:.1f} MiB; log probabilities within {difference:.1g} of "
        "ESPnet's"
    )
    return f"{line}, before 8 bits" if quantize == "int8" else line
