"""The input layer within ESPnet's encoders and model, on the CPU and on a GPU."""

import copy

import pytest
import torch

from espnet_adastride.downsampling.stages import position_stats
from espnet_adastride.plugin import long_input
from espnet_adastride.plugin.encoders import ConformerEncoder
from espnet_adastride.plugin.training_cost import StepMeter
from espnet_adastride.plugin.trunk import TRUNKS
from tests.devices import close, every_device, exact_float32, gpu_waits
from tests.plugin.test_model import batch, build, configuration

METHODS = ["adastride", "adastride_f", "avg_pool", "strided_conv", "spectral_pool"]
some_methods = pytest.mark.parametrize("method", METHODS)
BINS = 40


def encoder(method, device="cpu", **conf):
    """Build a Conformer without dropout or batch norm, whose strides vary."""
    torch.manual_seed(0)
    built = ConformerEncoder(
        BINS,
        output_size=16,
        num_blocks=2,
        attention_heads=2,
        linear_units=32,
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
        use_cnn_module=False,
        rel_pos_type="latest",
        input_layer=method,
        input_layer_conf={"stride": 4, **conf},
    )
    for stage in built.embed.downsamplers:
        if hasattr(stage, "score"):
            torch.nn.init.normal_(stage.score.weight)
    return built.to(device)


def features(device, lengths=(400, 301, 57), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(lengths), max(lengths), BINS, generator=generator)
    return x.to(device, dtype), torch.tensor(lengths, device=device)


@every_device
@some_methods
@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_encoder_gives_what_the_cpu_gives(method, trunk, device):
    results = []
    for where in ("cpu", device):
        model = encoder(method, where, trunk=trunk)
        # one against the other in float32: both are float64's but for 1e-5
        with exact_float32():
            frames, lengths, _ = model(*features(where))
            frames.square().sum().backward()
        grads = {k: p.grad for k, p in model.embed.named_parameters()}
        results.append((frames, lengths, grads, model.embed.take_trace()))
    (expected, counts, grads, trace), (frames, lengths, other, other_trace) = results
    assert frames.device.type == device and lengths.tolist() == counts.tolist()
    for row, (given, wanted) in enumerate(zip(frames, expected)):
        close(given[: counts[row]], wanted[: counts[row]], 1e-4, f"utterance {row}")
    for key, grad in grads.items():
        close(other[key], grad, 1e-3, key)
    stats, other_stats = position_stats(trace), position_stats(other_trace)
    for key, value in stats.items():
        close(other_stats[key], value, 1e-4, key)


@every_device
@some_methods
@pytest.mark.parametrize("options", [{}, {"tell_strides": True, "true_times": True}])
def test_an_utterance_in_chunks_is_the_same(method, options, device, monkeypatch):
    model = encoder(method, device, **options).double().eval()
    x, lengths = features(device, (1601,), torch.float64)
    with torch.no_grad():
        expected, counts, _ = model(x, lengths)
        model.embed.take_trace()
        monkeypatch.setattr(long_input, "LONG_BYTES", 1000)
        monkeypatch.setattr(long_input, "CHUNK_BYTES", 3 * 8 * 1000)
        frames, in_chunks, _ = model(x, lengths)
    assert frames.device.type == device and in_chunks.tolist() == counts.tolist()
    close(frames, expected, 1e-9, "frames")
    for value in position_stats(model.embed.take_trace()).values():
        assert value.isfinite()


@every_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["adastride", "adastride_f", "avg_pool"])
def test_a_training_step_under_autocast(method, dtype, device):
    model = build(input_layer=method).to(device).train()
    parts = {name: value.to(device) for name, value in batch().items()}
    with torch.autocast(device, dtype=dtype):
        loss, stats, _ = model(**parts)
    scale = 2.0**10 if dtype == torch.float16 else 1.0
    (loss * scale).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    assert torch.isfinite(loss) and torch.isfinite(stats["loss"])
    if method != "avg_pool":
        assert 0.0 <= float(stats["stride_entropy"]) <= 1.0 + 1e-9


@every_device
@pytest.mark.parametrize("method", ["adastride", "adastride_f", "avg_pool"])
def test_the_input_layer_waits_once_a_stage(method, device, host_waits):
    model = encoder(method, device).train()
    x, lengths = features(device, (3000, 2801))
    mask = torch.arange(3000, device=device)[None] < lengths[:, None]
    mask = mask.unsqueeze(1)
    model.embed(x, mask)
    expected = 0 if method == "avg_pool" else 2
    if device == "cpu":
        host_waits.scalars.clear(), host_waits.lists.clear()
        with host_waits as waits:
            model.embed(x, mask)
        assert len(waits.scalars) + len(waits.lists) == expected
    else:
        with gpu_waits() as waits:
            model.embed(x, mask)
        assert len(waits) <= expected, waits


@every_device
def test_the_plan_measures_a_step_as_espnet_trains_it(device):
    """Peak bytes and seconds; on a GPU in the half precision that ESPnet takes."""
    options = configuration()
    options.grad_clip, options.use_amp = 5.0, True
    options.optim, options.optim_conf = "adam", {}
    options.sharded_ddp = False
    options.exclude_weight_decay, options.exclude_weight_decay_conf = False, {}
    meter = StepMeter(options, build(), device, seconds=1.0)
    bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported()
    assert meter.amp_dtype == (torch.bfloat16 if bfloat16 else torch.float16)
    assert meter.amp == (device == "cuda")


@every_device
def test_a_checkpoint_moves_between_devices(device, tmp_path):
    model = encoder("adastride", device)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    other = copy.deepcopy(encoder("adastride"))
    other.load_state_dict(torch.load(tmp_path / "model.pth", map_location="cpu"))
    (frames, *_), (expected, *_) = (
        one(*features(where)) for one, where in ((model, device), (other, "cpu"))
    )
    close(frames[0], expected[0], 1e-3, "frames")
