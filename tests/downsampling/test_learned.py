"""The learned average and frame stacking: answers by hand."""

import math

import torch

from espnet_adastride import build_downsampler


def set_parameters(layer, **values):
    with torch.no_grad():
        for name, value in values.items():
            layer.get_parameter(name).copy_(torch.tensor(value))
    return layer


def test_the_learned_average_starts_as_average_pooling():
    x, lengths = torch.randn(3, 11, 4), torch.tensor([11, 8, 0])
    for stride in (1, 2, 3, 5):
        ours = build_downsampler("softmax_pool", 4, stride)(x, lengths).output
        average = build_downsampler("avg_pool", 4, stride)(x, lengths).output
        torch.testing.assert_close(ours, average)


def test_learned_average_by_hand():
    layer = build_downsampler("softmax_pool", 2, 2)
    set_parameters(layer, scores=[0.0, math.log(3)])
    x = torch.tensor([[[4.0, 0.0], [8.0, -4.0], [5.0, 1.0]]])
    out = layer(x, torch.tensor([3])).output
    # 1/4 and 3/4, for all features; the step that is alone counts whole
    torch.testing.assert_close(out, torch.tensor([[[7.0, -3.0], [5.0, 1.0]]]))


def test_a_place_without_weight_is_taken_where_it_is_the_only_one():
    layer = build_downsampler("softmax_pool", 1, 2)
    set_parameters(layer, scores=[-200.0, 200.0])
    out = layer(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([3])).output
    assert out.flatten().tolist() == [2.0, 3.0]


def test_stack_by_hand():
    layer = build_downsampler("stack", 2, 2)
    weight = [[1.0, 10.0, 100.0, 1000.0], [1.0, 0.0, 0.0, 0.0]]
    set_parameters(layer, **{"project.weight": weight, "project.bias": [0.5, 0.0]})
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    out = layer(x, torch.tensor([3])).output
    # frame by frame, the missing one being zero
    expected = [[4321.5, 1.0], [65.5, 5.0]]
    torch.testing.assert_close(out, torch.tensor([expected]))


def test_the_cost_of_stacking_is_as_documented():
    for size, stride in ((6, 2), (10, 3)):
        layer = build_downsampler("stack", size, stride)
        count = sum(p.numel() for p in layer.parameters())
        assert count == stride * size**2 + size
