"""ESPnet's frontends, tiny: of the real packages, or of stand-ins for them.

A stand-in is a module of the package's name with the few functions that ESPnet's
frontend calls. ESPnet's own code runs on it, and it makes frames as the package's
documentation says: so the arithmetic is checked where no such package is installed.
"""

import importlib.util
import inspect
import sys
import types
from types import SimpleNamespace

import pytest
import torch

from espnet_adastride.corpora.whisper_mel import mel_filters
from espnet_adastride.plugin.espnet import HuggingFaceFrontend, asr_task
from tests.corpora.upstreams import save_wave_model

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
SIZE = 16

#: without statistics over the whole recording, which a click would change everywhere
LOCAL = {"feat_extract_norm": "layer"}


def linear(size):
    return {
        "preencoder": "linear",
        "preencoder_conf": {"input_size": size, "output_size": 12},
    }


# ------------------------------------------------------------------ stand-ins
class Extractor(torch.nn.Module):
    """wav2vec 2.0's convolutions over samples, without padding."""

    def __init__(self):
        super().__init__()
        widths = (1, *[SIZE] * len(KERNELS))
        self.conv_layers = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Conv1d(a, b, k, s), torch.nn.GELU())
            for a, b, k, s in zip(widths, widths[1:], KERNELS, STRIDES)
        )

    def forward(self, waves):
        x = waves.unsqueeze(1)
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2)


class WaveModel(torch.nn.Module):
    """What ESPnet asks of a wav2vec 2.0 of ``transformers``."""

    def __init__(self):
        super().__init__()
        self.feature_extractor = Extractor()
        self.config = SimpleNamespace(
            hidden_size=SIZE,
            conv_kernel=list(KERNELS),
            conv_stride=list(STRIDES),
            mask_time_prob=0.05,
            mask_time_length=10,
        )

    def _get_feat_extract_output_lengths(self, lengths):
        for kernel, stride in zip(KERNELS, STRIDES):
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def forward(self, input_values):
        frames = self.feature_extractor(input_values)
        if self.training and frames.size(1) < self.config.mask_time_length:
            raise ValueError("`mask_length` has to be smaller than `sequence_length`")
        return SimpleNamespace(last_hidden_state=frames)


class Batch(dict):
    """What a processor of ``transformers`` returns."""

    def to(self, device):
        return self


class Processor:
    """Pads waves, as a Wav2Vec2FeatureExtractor does."""

    sampling_rate = 16000

    def __call__(self, waves, return_tensors, sampling_rate, padding=False):
        waves = waves if isinstance(waves, list) else [waves]
        waves = [torch.as_tensor(wave) for wave in waves]
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return Batch(input_values=padded)


def stand_in_transformers(monkeypatch):
    module = types.ModuleType("transformers")
    torch.manual_seed(0)
    model = SimpleNamespace(from_pretrained=lambda *_, **__: WaveModel())
    module.AutoModel = module.AutoConfig = model
    module.AutoFeatureExtractor = SimpleNamespace(
        from_pretrained=lambda *_, **__: Processor()
    )
    module.EncodecFeatureExtractor = type("Encodec", (), {})
    module.WhisperFeatureExtractor = type("Whisper", (), {})
    monkeypatch.setitem(sys.modules, "transformers", module)


class Whisper(torch.nn.Module):
    """What ESPnet asks of OpenAI's Whisper: its encoder's parts."""

    def __init__(self, positions=1500):
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.conv1 = torch.nn.Conv1d(80, SIZE, 3, padding=1)
        self.encoder.conv2 = torch.nn.Conv1d(SIZE, SIZE, 3, stride=2, padding=1)
        self.encoder.positional_embedding = torch.nn.Parameter(
            0.1 * torch.randn(positions, SIZE)
        )
        self.encoder.blocks = torch.nn.ModuleList()
        self.encoder.ln_post = torch.nn.LayerNorm(SIZE)


def stand_in_whisper(monkeypatch):
    module, audio = types.ModuleType("whisper"), types.ModuleType("whisper.audio")
    audio.HOP_LENGTH, audio.N_FFT = 160, 400
    audio.mel_filters = lambda device, n: torch.from_numpy(mel_filters(16000, 400, n))
    module.audio, module.pad_or_trim = audio, None
    module.available_models = lambda: ["small"]
    torch.manual_seed(0)
    module.load_model = lambda name, download_root: Whisper()
    monkeypatch.setitem(sys.modules, "whisper", module)
    monkeypatch.setitem(sys.modules, "whisper.audio", audio)


class S3PRLUpstream(torch.nn.Module):
    """S3PRL's rule: ceil(n / 320) frames, the last of the convolutions' repeated."""

    def __init__(self, name, path_or_url, normalize, extra_conf):
        super().__init__()
        self.upstream = torch.nn.Module()
        self.upstream.model = torch.nn.Module()
        self.upstream.model.feature_extractor = Extractor()

    @staticmethod
    def available_names():
        return ["hubert_local"]

    def forward(self, waves, lengths):
        waves = torch.nn.functional.pad(waves, (0, max(800 - waves.size(1), 0)))
        frames = self.upstream.model.feature_extractor(waves)
        counts = (lengths - 1) // 320 + 1
        missing = (waves.size(1) - 1) // 320 + 1 - frames.size(1)
        frames = torch.cat([frames, frames[:, -1:].repeat(1, missing, 1)], dim=1)
        frames = frames[:, : int(counts.max())]
        return [frames, 2 * frames], [counts, counts]


class Featurizer(torch.nn.Module):
    """A sum of the layers."""

    output_size, downsample_rate = SIZE, 320

    def __init__(self, upstream, layer_selections):
        super().__init__()

    def forward(self, frames, lengths):
        return sum(frames), lengths[0]


def stand_in_s3prl(monkeypatch):
    module, nn = types.ModuleType("s3prl"), types.ModuleType("s3prl.nn")
    nn.S3PRLUpstream, nn.Featurizer, module.nn = S3PRLUpstream, Featurizer, nn
    monkeypatch.setitem(sys.modules, "s3prl", module)
    monkeypatch.setitem(sys.modules, "s3prl.nn", nn)


# ------------------------------------------------------------------ what to test
def default(folder, monkeypatch):
    conf = {"fs": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160}
    return {"frontend": "default", "frontend_conf": {**conf, "n_mels": 20}}


def not_centred(folder, monkeypatch):
    options = default(folder, monkeypatch)
    options["frontend_conf"]["center"] = False
    return options


def sliding_window(folder, monkeypatch):
    return {
        "frontend": "sliding_window",
        "frontend_conf": {"win_length": 400, "hop_length": 160, "fs": 16000},
        "preencoder": "sinc",
        "preencoder_conf": {"fs": 16000},
    }


def wav2vec_cnn(folder, monkeypatch):
    shapes = [[8, k, s] for k, s in zip(KERNELS, STRIDES)]
    conf = {"norm_mode": "layer_norm", "conv_mode": "standard", "bias": False}
    return {
        "frontend": "wav2vec_cnn",
        "frontend_conf": {**conf, "shapes": shapes},
        **linear(8),
    }


def fused(folder, monkeypatch):
    parts = [
        {"frontend_type": "default", "n_mels": 20, "hop_length": hop, "n_fft": 400}
        for hop in (128, 192)
    ]
    return {
        "frontend": "fused",
        "frontend_conf": {"frontends": parts, "proj_dim": 8, "fs": 16000},
        **linear(16),
    }


def needs_true_lengths():
    if not HAS_HUGGINGFACE:
        pytest.skip("frontend huggingface counts frames since ESPnet 202609")


def huggingface_stand_in(folder, monkeypatch):
    needs_true_lengths()
    stand_in_transformers(monkeypatch)
    return {
        "frontend": "huggingface",
        "frontend_conf": {"model": "some/model"},
        **linear(SIZE),
    }


def huggingface(kind):
    def make(folder, monkeypatch):
        needs_true_lengths()
        needs("transformers")
        save_wave_model(folder / kind, kind, normalize=False, **LOCAL)
        return {
            "frontend": "huggingface",
            "frontend_conf": {"model": str(folder / kind)},
            **linear(16),
        }

    return make


def w2v_bert(folder, monkeypatch):
    """A kernel of 1 in its blocks: they are causal, and would answer later frames."""
    needs_true_lengths()
    transformers = needs("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        feature_projection_input_dim=160,
        position_embeddings_type="relative_key",
        conv_depthwise_kernel_size=1,
    )
    model = transformers.Wav2Vec2BertModel(config)
    for layer in model.encoder.layers:  # random attention mixes all frames
        layer.self_attn.linear_out.weight.data *= 0.1
    model.save_pretrained(folder / "bert")
    transformers.SeamlessM4TFeatureExtractor().save_pretrained(folder / "bert")
    return {
        "frontend": "huggingface",
        "frontend_conf": {"model": str(folder / "bert")},
        **linear(16),
    }


def whisper_stand_in(folder, monkeypatch):
    stand_in_whisper(monkeypatch)
    return {"frontend": "whisper", "frontend_conf": {}, **linear(SIZE)}


def whisper(folder, monkeypatch):
    """OpenAI's package and a checkpoint of random weights, which it reads by path."""
    package = needs("whisper", "openai-whisper")
    from whisper.model import ModelDimensions

    torch.manual_seed(0)
    sizes = ModelDimensions(80, 1500, 16, 2, 1, 100, 8, 16, 2, 1)
    state = package.model.Whisper(sizes).state_dict()
    for name, value in state.items():
        if name.endswith("attn.out.weight"):  # random attention mixes all frames
            value *= 0.1
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "whisper.pt")
    torch.save({"dims": vars(sizes), "model_state_dict": state}, path)
    # ESPnet allows the published names alone
    monkeypatch.setattr(package, "available_models", lambda: [path])
    return {
        "frontend": "whisper",
        "frontend_conf": {"whisper_model": path},
        **linear(16),
    }


def s3prl_stand_in(folder, monkeypatch):
    stand_in_s3prl(monkeypatch)
    conf = {"frontend_conf": {"upstream": "hubert_local"}, "multilayer_feature": True}
    return {"frontend": "s3prl", "frontend_conf": conf, **linear(SIZE)}


def s3prl(folder, monkeypatch):
    needs("s3prl", "s3prl, or its fork espnet-s3prl")
    # S3PRL stops in training where transformers leaves out a layer
    save_wave_model(
        folder / "hubert", "hubert", normalize=False, layerdrop=0.0, **LOCAL
    )
    upstream = {
        "upstream": "hf_hubert_custom",
        "path_or_url": str(folder / "hubert"),
    }
    conf = {"frontend_conf": upstream, "multilayer_feature": True}
    return {"frontend": "s3prl", "frontend_conf": conf, **linear(16)}


def needs(name, package=None):
    """Import a package, or skip."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{package or name} is not installed")
    return importlib.import_module(name)


#: whether frontend huggingface counts frames (ESPnet 202609 and later)
HAS_HUGGINGFACE = "waveform_input" in inspect.getsource(HuggingFaceFrontend)

CASES = {
    "default": default,
    "not_centred": not_centred,
    "sliding_window": sliding_window,
    "wav2vec_cnn": wav2vec_cnn,
    "fused": fused,
    "whisper_stand_in": whisper_stand_in,
    "whisper": whisper,
    "s3prl_stand_in": s3prl_stand_in,
    "s3prl": s3prl,
    "huggingface_stand_in": huggingface_stand_in,
    "wavlm": huggingface("wavlm"),
    "hubert": huggingface("hubert"),
    "wav2vec2": huggingface("wav2vec2"),
    "w2v_bert": w2v_bert,
}


def build(options):
    """Return the frontend of a training's options, for evaluation."""
    kind = asr_task.frontend_choices.get_class(options["frontend"])
    return kind(**options["frontend_conf"]).eval()
