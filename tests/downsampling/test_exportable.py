"""Every method's export form: the layer's own numbers, as a program of any length."""

import math

import pytest
import torch

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling.exportable import (
    Exportable,
    export_program,
    nearest_steps,
    steps_before,
)

SIZE = 6
STRIDES = [*range(2, 13), 1.3, 1.4, 2.7, 6.25, math.sqrt(6)]
LENGTHS = [1, 2, 3, 4, 5, 7, 8, 12, 13, 21, 24, 25, 100, 333, 1001, 2999, 3000]

#: options that change a method's way to its output
SCORES = dict(score_hidden=4, score_context=3, content_bound=2.0)
OPTIONS = {
    "adastride": [
        *({"sigma_square": 50.0}, {"score_bound": 0.7}, {"score_context": 5}),
        *({"score_bound": "sigmoid"}, SCORES),
    ],
    "adastride_f": [{}, {"empty_slots": "nearest"}, {**SCORES, "score_bound": 1.0}],
    "hnet": [{}, {"exact": False}],
}

every_method = pytest.mark.parametrize("name", available_downsamplers())


def layers_of(name, strides):
    """Yield layers, of the strides that the method takes, away from their start."""
    torch.manual_seed(3)
    for options in OPTIONS.get(name, [{}]):
        for stride in strides:
            try:
                layer = build_downsampler(name, SIZE, stride, **options).eval()
            except ValueError:
                continue
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter += 0.5 * torch.randn_like(parameter)
            yield layer


def check(layer, x, output, positions, tolerance=1e-4):
    with torch.no_grad():
        expected = layer(x)
    torch.testing.assert_close(output, expected.output, atol=tolerance, rtol=0)
    if expected.positions is None:
        assert positions is None
    else:
        torch.testing.assert_close(
            positions, expected.positions, atol=tolerance / 10, rtol=0
        )


@every_method
def test_the_form_equals_the_layer(name):
    count = 0
    for layer in layers_of(name, STRIDES):
        form = Exportable(layer)
        for length in LENGTHS:
            x = torch.randn(1, length, SIZE)
            with torch.no_grad():
                check(layer, x, *form(x))
        count += 1
    assert count >= 3


@every_method
def test_a_program_of_any_length(name):
    """Exported at 83 steps; where a convolution follows, T' = 1 is not in it."""
    layer = next(layers_of(name, [4]))
    program = export_program(Exportable(layer), torch.randn(1, 83, SIZE)).module()
    for length in (5, 8, 9, 100, 1001, 3000):
        x = torch.randn(1, length, SIZE)
        check(layer, x, *program(x))


@every_method
def test_a_program_can_be_written_and_read(name, tmp_path):
    """At a stride that is not whole, too: 21 / 1.4 is rounded, and 7 steps make 5."""
    layers = list(layers_of(name, [4, 1.4]))
    layer = layers[1 if build_downsampler(name, SIZE, 4).takes_any_stride() else 0]
    program = export_program(Exportable(layer), torch.randn(1, 83, SIZE))
    torch.export.save(program, tmp_path / "layer.pt2")
    program = torch.export.load(tmp_path / "layer.pt2").module()
    for length in (7, 21, 300):
        x = torch.randn(1, length, SIZE)
        check(layer, x, *program(x))


class ThereAndBack(torch.nn.Module):
    """A layer and its inverse, as a function of one utterance."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.stride = layer, layer.current_stride()

    def forward(self, x):
        z, positions = self.layer.export_form(x, self.stride)
        return self.layer.export_inverse(z, x.size(1), positions, self.stride)


def check_inverse(layer, x, found):
    with torch.no_grad():
        z, lengths, positions, *_ = layer(x)
        whole = torch.tensor([x.size(1)])
        expected = layer.upsample(z, whole, x.size(1), positions)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@every_method
def test_the_inverse_equals_upsample(name):
    for layer in layers_of(name, STRIDES):
        form = ThereAndBack(layer)
        for length in LENGTHS:
            x = torch.randn(1, length, SIZE)
            with torch.no_grad():
                check_inverse(layer, x, form(x))


@every_method
def test_a_program_of_the_inverse(name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="extra [export]")
    pytest.importorskip("onnxscript", reason="extra [export]")
    from espnet_adastride.deployment.conversion import to_onnx

    layer = next(layers_of(name, [4]))
    program = export_program(ThereAndBack(layer), torch.randn(1, 83, SIZE))
    model = to_onnx(program, ["output"])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for length in (5, 8, 9, 100, 1001):
        x = torch.randn(1, length, SIZE)
        check_inverse(layer, x, program.module()(x))
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        check_inverse(layer, x, torch.from_numpy(found))


@every_method
def test_onnxruntime_gives_the_same(name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="extra [export]")
    pytest.importorskip("onnxscript", reason="extra [export]")
    from espnet_adastride.deployment.conversion import to_onnx

    # 1.4: 21 steps make 16 frames, as 21 / 1.4 is rounded, and 7 steps make 5
    layers = list(layers_of(name, [4, 1.4]))
    takes_any = build_downsampler(name, SIZE, 4).takes_any_stride()
    run_onnx(layers[1 if takes_any else 0], onnxruntime, to_onnx)


def test_onnxruntime_with_a_score_network():
    onnxruntime = pytest.importorskip("onnxruntime", reason="extra [export]")
    pytest.importorskip("onnxscript", reason="extra [export]")
    from espnet_adastride.deployment.conversion import to_onnx

    # its scores are float32, in the layer too: two convolutions' roundings differ, and
    # their sum over 3000 steps moves positions by 1e-5
    layer = list(layers_of("adastride", [1.4]))[-1]
    assert layer.score_hidden and layer.content_bound
    run_onnx(layer, onnxruntime, to_onnx, tolerance=1e-3)


@pytest.mark.parametrize("name", ["adastride", "adastride_f", "cif"])
def test_nan_gives_nan_and_no_index_error(name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="extra [export]")
    pytest.importorskip("onnxscript", reason="extra [export]")
    from espnet_adastride.deployment.conversion import to_onnx

    x = torch.randn(1, 40, SIZE)
    x[0, 20, 3] = torch.nan
    for options in OPTIONS[name][:2] if name == "adastride_f" else [{}]:
        layer = build_downsampler(name, SIZE, 4, **options).eval()
        assert layer(x).output.isnan().all()
        for form in (Exportable(layer), ThereAndBack(layer)):
            program = export_program(form, torch.randn(1, 83, SIZE))
            found = program.module()(x)
            assert (found if torch.is_tensor(found) else found[0]).isnan().all()
            made = ["output", "positions"][: len(program.graph_signature.user_outputs)]
            session = onnxruntime.InferenceSession(
                to_onnx(program, made).SerializeToString()
            )
            given = {session.get_inputs()[0].name: x.numpy()}
            found = torch.from_numpy(session.run(["output"], given)[0])
            assert found.isnan().all()


def run_onnx(layer, onnxruntime, to_onnx, tolerance=1e-4):
    names = ["output", "positions"][: 1 + layer.has_positions]
    model = to_onnx(export_program(Exportable(layer), torch.randn(1, 83, SIZE)), names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for length in LENGTHS:
        x = torch.randn(1, length, SIZE)
        found = session.run(names, {session.get_inputs()[0].name: x.numpy()})
        found = [torch.from_numpy(one) for one in found]
        check(layer, x, *found, *[None] * (2 - len(found)), tolerance=tolerance)


def test_steps_before_and_nearest_by_hand():
    positions = torch.tensor([[0.0, 0.4, 1.0, 2.5, 2.5, 4.0]], dtype=torch.float64)
    assert steps_before(positions, 5).tolist() == [[0, 2, 3, 5, 5]]
    # 3 is as far from 2.5 as 2 is: the step before; 2.5 and 2.5: see searchsorted
    slots = torch.arange(5, dtype=torch.float64)[None]
    assert steps_before(positions, 5).equal(torch.searchsorted(positions, slots))
    assert nearest_steps(positions, 5).tolist() == [[0, 2, 3, 4, 5]]
