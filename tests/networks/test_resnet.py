"""The residual network: padding, one alignment for both branches, published size."""

import math

import pytest
import torch

from espnet_adastride import available_downsamplers, downsampled_lengths
from espnet_adastride.downsampling import alignment_matrix
from espnet_adastride.networks.resnet import (
    ResidualBlock,
    ResNet,
    SharedAlignment,
    _Frames,
)

every_method = pytest.mark.parametrize("name", available_downsamplers())


def network(name, input_size=5, **options):
    """A network whose learned numbers and statistics are not where they start."""
    net = ResNet(input_size, 8, [2, 1, 2, 2], 3, name, options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    net.train()
    for _ in range(3):
        net(torch.randn(4, 40, input_size), torch.tensor([40, 33, 40, 21]))
    return net


@every_method
def test_an_utterance_is_the_same_alone_and_in_a_padded_batch(name):
    net = network(name).eval()
    lengths = torch.tensor([37, 40, 8, 1, 0])
    x = torch.randn(len(lengths), 45, 5)
    for row, n in zip(x, lengths):
        row[n:] = math.nan
    out = net(x, lengths)
    assert out.output.isfinite().all()
    if name != "diff_stride":  # its stride has moved
        assert out.lengths.tolist() == [5, 5, 1, 1, 0]
    for row, m, one, n in zip(out.output, out.lengths, x, lengths):
        assert (row[m:] == 0).all()
        if n > 0:
            alone = net(one[None, :n], n[None])
            assert alone.lengths.tolist() == [m]
            torch.testing.assert_close(
                row[:m], alone.output[0, :m], atol=1e-5, rtol=1e-4
            )


def test_training_does_not_see_the_padding_either():
    lengths = torch.tensor([37, 40, 12])
    results = []
    for width in (40, 64):
        torch.manual_seed(3)
        net = network("adastride")
        x = torch.zeros(3, width, 5)
        for row, n in zip(x, lengths):
            row[:n] = torch.linspace(-1, 1, 5 * int(n)).view(-1, 5).sin()
        out = net(x, lengths)
        out.output.square().sum().backward()
        gradients = [p.grad.flatten() for p in net.parameters()]
        results.append((out.output.sum(1), net.norm.running_mean, torch.cat(gradients)))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["adastride", "adastride_f"])
def test_the_shortcut_is_resampled_by_the_branchs_own_alignment(name):
    shared = SharedAlignment(name, 6, 2, {"score_bound": 1.0})
    score = shared.downsampler.score
    assert [tuple(p.shape) for p in shared.parameters()] == [(1, 6)]
    assert (score.weight == 0).all()  # training starts at uniform strides
    with torch.no_grad():
        score.parametrizations.weight.original.copy_(torch.randn(1, 6))
    lengths = torch.tensor([21, 16])
    branch, shortcut = torch.randn(2, 2, 21, 6)
    z, s, stage = shared(branch, shortcut, lengths)
    # the branch alone decides
    alone = type(shared.downsampler)(6, 2, score_bound=1.0)
    alone.score.weight.data.copy_(score.parametrizations.weight.original)
    torch.testing.assert_close(alone(branch, lengths).output, z)
    torch.testing.assert_close(alone(branch, lengths).positions, stage.positions)
    assert not torch.equal(stage.positions[0], torch.linspace(0, 10, 21).double())
    # one matrix for both: its rows come out where the shortcut is the identity
    eye = torch.eye(21).expand(2, 21, 21)
    wide = SharedAlignment(name, 21, 2, {"score_bound": 1.0})
    with torch.no_grad():
        weight = wide.downsampler.score.parametrizations.weight.original
        weight[:, :6] = score.parametrizations.weight.original
    padded = torch.nn.functional.pad(branch, (0, 15))
    _, rows, _ = wide(padded, eye, lengths)
    torch.testing.assert_close(rows @ shortcut, s, atol=1e-5, rtol=1e-5)
    if name == "adastride":
        matrix = alignment_matrix(stage.positions, lengths, stage.output_lengths, 5.0)
        torch.testing.assert_close(matrix.float() @ shortcut, s)
        torch.testing.assert_close(matrix.float() @ branch, z)
    # and its gradient reaches the scores through the shortcut
    s.square().sum().backward()
    assert score.parametrizations.weight.original.grad.abs().sum() > 0


@pytest.mark.parametrize("hidden", [8, 12, 32])  # 12: as many as branch and shortcut
@pytest.mark.parametrize("context", [1, 3])
def test_a_score_network_reads_only_the_branch(hidden, context):
    options = {"score_hidden": hidden, "score_context": context}
    shared = SharedAlignment("adastride", 6, 2, options)
    with torch.no_grad():
        for parameter in shared.parameters():
            parameter += torch.randn_like(parameter)
    both = torch.randn(2, 2, 21, 6, requires_grad=True)
    _, _, stage = shared(both[0], both[1], torch.tensor([21, 16]))
    (stage.positions * torch.randn(2, 21)).sum().backward()
    assert both.grad[0].abs().sum() > 0 and (both.grad[1] == 0).all()


@pytest.mark.parametrize("options", [{}, {"score_hidden": 8}])
def test_set_start_makes_strides_uniform(options):
    shared = SharedAlignment("adastride", 6, 2, options)
    for parameter in shared.parameters():
        torch.nn.init.normal_(parameter)
    lengths, both = torch.tensor([21]), torch.randn(2, 1, 21, 6)
    uniform = torch.linspace(0, 10, 21).double()
    assert not torch.allclose(shared(*both, lengths)[2].positions[0], uniform)
    shared.downsampler.set_start()
    torch.testing.assert_close(shared(*both, lengths)[2].positions[0], uniform)


def test_a_learned_stride_is_one_for_branch_and_shortcut():
    block = ResidualBlock(4, 3, 2, "diff_stride", {})
    block.downsampler.downsampler.stride_change.data.fill_(0.7)
    x = torch.randn(2, 30, 4)
    out, frames, stage = block(x, _Frames(torch.tensor([30, 20]), x))
    assert frames.lengths.tolist() == [12, 8] and out.shape == (2, 12, 4)


def test_strided_conv_has_its_stride_in_the_blocks_own_convolution():
    block = ResidualBlock(4, 3, 2, "strided_conv")
    assert block.downsampler is None and block.conv1.stride == (2,)
    assert block.projection.stride == (2,) and block.projection.kernel_size == (1,)
    for n in (1, 2, 3, 9, 10):
        x = torch.randn(2, n, 4)
        out, frames, _ = block(x, _Frames(torch.tensor([n, n]), x))
        assert out.size(1) == downsampled_lengths(n, 2) == int(frames.lengths[0])


def test_a_method_for_every_stride_and_the_published_size():
    net = ResNet(
        80, 256, [2, 1, 2, 1, 2, 1], 3, ["strided_conv", "avg_pool", "adastride"]
    )
    kinds = [
        b.downsampler and type(b.downsampler.downsampler).__name__ for b in net.blocks
    ]
    assert kinds == [None, None, "AvgPool", None, "AdaStride", None]
    assert (
        len(net.blocks) == 6 and net.blocks[4].downsampler.downsampler.score_bound == 1
    )
    out = net(torch.randn(2, 63, 80), torch.tensor([63, 50]))
    assert out.output.shape == (2, 8, 256) and out.lengths.tolist() == [8, 7]
    assert [stage.aux_loss is None for stage in out.stages] == [True, False]
    with pytest.raises(ValueError, match="2 methods .* for 3 strides"):
        ResNet(80, 8, [2, 2, 2], 3, ["avg_pool", "max_pool"])
