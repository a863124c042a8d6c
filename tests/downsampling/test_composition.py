"""What the layers compose with: every method in every combination of the docs' table.

``python tests/downsampling/test_composition.py`` prints the tables of
docs/composition.md.
"""

import copy
import io
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling.adastride import DENSE_UP_TO

PAGE = Path(__file__).resolve().parents[2] / "docs" / "composition.md"
SIZE, STEPS, SHORT = 4, 132, 24
assert SHORT * SHORT // 2 <= DENSE_UP_TO < STEPS * STEPS // 2

#: AdaStride applies a small alignment densely, by operations of PyTorch alone
SUFFIX = ", short"


def rows_of_table():
    for name in available_downsamplers():
        yield name
        if name == "adastride":
            yield name + SUFFIX


class Case:
    """One row: a layer that has left its starting point, a batch, and its results."""

    def __init__(self, row):
        torch.manual_seed(4)
        self.name = row[: -len(SUFFIX)] if row.endswith(SUFFIX) else row
        steps = SHORT if row.endswith(SUFFIX) else STEPS
        self.layer = build_downsampler(self.name, SIZE, 2).double()
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        self.x = torch.randn(3, steps, SIZE, dtype=torch.float64)
        self.lengths = torch.tensor([steps, steps - 5, steps - 8])
        self.other = torch.randn_like(self.x)
        self.parameters = dict(self.layer.named_parameters())

    def results(self, layer):
        """Return the output and the gradients, of x and of the parameters."""
        x = self.x.clone().requires_grad_()
        out = layer(x, self.lengths)
        return out.output, torch.autograd.grad(summed(out), (x, *layer.parameters()))

    def same(self, layer):
        torch.testing.assert_close(self.results(layer), self.results(self.layer))


def summed(out):
    loss = out.output.square().sum()
    return loss if out.aux_loss is None else loss + out.aux_loss


def functional(case, state, x, lengths):
    return torch.func.functional_call(case.layer, state, (x, lengths))


def autocast(case):
    layer, x = case.layer.float(), case.x.float()
    exact = layer(x, case.lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, case.lengths)
    assert torch.equal(out.lengths, exact.lengths)
    torch.testing.assert_close(out.output.float(), exact.output, atol=0.1, rtol=0.1)


def compiled(case):
    """The capture, not the compiler: whole, or with parts that stay as they are."""
    torch._dynamo.reset()
    try:
        case.same(torch.compile(case.layer, backend="eager", fullgraph=True))
    except AssertionError:
        raise
    except Exception:
        torch._dynamo.reset()
        case.same(torch.compile(case.layer, backend="eager"))
        return "in parts"


def checkpointing(case):
    class Checkpointed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = case.layer

        def forward(self, x, lengths):
            return checkpoint(self.layer, x, lengths, use_reentrant=False)

    case.same(Checkpointed())


def deepcopy(case):
    other = copy.deepcopy(case.layer)
    case.same(other)
    kept = [parameter.clone() for parameter in case.layer.parameters()]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert all(map(torch.equal, kept, case.layer.parameters()))


def saved(case):
    case.same(pickle.loads(pickle.dumps(case.layer)))
    file = io.BytesIO()
    torch.save(case.layer, file)
    file.seek(0)
    case.same(torch.load(file, weights_only=False))


def data_parallel(case):
    """What torch.nn.DataParallel does, on the CPU: replicas, parts of a batch."""
    x = case.x.clone().requires_grad_()
    outputs, loss = [], 0.0
    for part in (slice(0, 2), slice(2, 3)):
        replica = case.layer._replicate_for_data_parallel()
        for key, module in case.layer.named_modules():
            twin = module._replicate_for_data_parallel() if key else replica
            if key:
                owner, _, last = key.rpartition(".")
                replica.get_submodule(owner)._modules[last] = twin
            for word, parameter in module.named_parameters(recurse=False):
                setattr(twin, word, parameter.clone())  # no parameter: a graph to it
        out = replica(x[part], case.lengths[part])
        assert not [one for one in replica.parameters() if one.is_leaf]
        outputs.append(out.output)
        loss = loss + out.output.square().sum()
    grads = torch.autograd.grad(loss, (x, *case.layer.parameters()))
    whole = case.layer(x, case.lengths).output
    torch.testing.assert_close(torch.cat(outputs), whole)
    expected = torch.autograd.grad(whole.square().sum(), (x, *case.layer.parameters()))
    torch.testing.assert_close(grads, expected)


def distributed(case):
    if not case.parameters:
        return "no parameters"
    group = torch.distributed
    store = group.HashStore()
    group.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        layer = torch.nn.parallel.DistributedDataParallel(case.layer)
        summed(layer(case.x, case.lengths)).backward()
        grads = [parameter.grad for parameter in case.layer.parameters()]
        expected = case.results(case.layer)[1][1:]
        torch.testing.assert_close(grads, list(expected))
    finally:
        group.destroy_process_group()


def exported(case):
    program = torch.export.export(case.layer, (case.x, case.lengths), strict=False)
    for x in (case.x, case.other):
        torch.testing.assert_close(
            program.module()(x, case.lengths).output,
            case.layer(x, case.lengths).output,
        )


def functional_call(case):
    state = {key: 0.5 * value.detach() for key, value in case.parameters.items()}
    output = functional(case, state, case.x, case.lengths).output
    other = copy.deepcopy(case.layer)
    other.load_state_dict(state, strict=False)
    torch.testing.assert_close(output, other(case.x, case.lengths).output)


def func_grad(case):
    state = {key: value.detach() for key, value in case.parameters.items()}

    def loss(state, x):
        return summed(functional(case, state, x, case.lengths))

    of_state, of_x = torch.func.grad(loss, (0, 1))(state, case.x)
    expected = case.results(case.layer)[1]
    torch.testing.assert_close((of_x, *of_state.values()), expected)
    value, pull = torch.func.vjp(loss, state, case.x)
    of_state, of_x = pull(torch.ones_like(value))
    torch.testing.assert_close((of_x, *of_state.values()), expected)


def func_jvp(case):
    """(c, J u) = (J^T c, u)"""

    def output(x):
        return case.layer(x, case.lengths).output

    value, forth = torch.func.jvp(output, (case.x,), (case.other,))
    cotangent = torch.randn_like(value)
    (back,) = torch.func.vjp(output, case.x)[1](cotangent)
    torch.testing.assert_close((cotangent * forth).sum(), (back * case.other).sum())


def func_vmap(case):
    def one(x, length):
        return case.layer(x.unsqueeze(0), length.unsqueeze(0)).output[0]

    output = torch.func.vmap(one)(case.x, case.lengths)
    torch.testing.assert_close(output, case.layer(case.x, case.lengths).output)


def sample_gradients(case):
    """The gradients of every utterance; all of the same length."""
    state = {key: value.detach() for key, value in case.parameters.items()}
    length = torch.tensor([case.x.size(1)])

    def loss(state, x):
        return summed(functional(case, state, x.unsqueeze(0), length))

    of_state, of_x = torch.func.vmap(torch.func.grad(loss, (0, 1)), (None, 0))(
        state, case.x
    )
    for i in range(3):
        x = case.x[i : i + 1].clone().requires_grad_()
        expected = torch.autograd.grad(
            summed(case.layer(x, length)), (x, *case.layer.parameters())
        )
        ours = (of_x[i : i + 1], *(grad[i] for grad in of_state.values()))
        torch.testing.assert_close(ours, expected)


class OutputOnly(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths):
        return self.layer(x, lengths).output


def traced(case):
    layer = OutputOnly(case.layer)
    program = torch.jit.trace(layer, (case.x, case.lengths), check_trace=False)
    for x, lengths in ((case.x, case.lengths), (case.other, case.lengths.flip(0))):
        try:
            output = program(x, lengths)
        except Exception:  # numbers of the first batch are part of the program
            return "no"
        if not torch.allclose(output, layer(x, lengths)):
            return "wrong"


def scripted(case):
    program = torch.jit.script(case.layer)
    torch.testing.assert_close(
        program(case.x, case.lengths).output,
        case.layer(case.x, case.lengths).output,
    )


def quantized(case):
    layer = torch.ao.quantization.quantize_dynamic(
        case.layer.float(), {torch.nn.Linear}, dtype=torch.qint8
    )
    x = case.x.float()
    torch.testing.assert_close(
        layer(x, case.lengths).output,
        case.layer(x, case.lengths).output,
        atol=0.1,
        rtol=0.1,
    )


@pytest.mark.parametrize(
    "name, conf",
    [
        ("adastride", {}),
        ("adastride", {"score_hidden": 8}),
        ("adastride", {"content_bound": 1.0}),
        ("adastride_f", {}),
        ("cif", {}),
        ("hnet", {}),
    ],
)
def test_what_decides_on_strides_is_not_quantized(name, conf):
    layer = build_downsampler(name, 16, 4, **conf).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantization is deprecated
        rest, same = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    assert type(rest) is not torch.nn.Linear
    assert same.state_dict().keys() == layer.state_dict().keys()
    x, lengths = torch.randn(2, 40, 16), torch.tensor([40, 29])
    before, after = (one(x, lengths) for one in (layer, same))
    assert torch.equal(after.output, before.output)


def double_backward(case):
    """H v is the change of the gradient along v."""

    def gradient(x, create_graph=False):
        loss = summed(case.layer(x, case.lengths))
        return torch.autograd.grad(loss, x, create_graph=create_graph)[0]

    x, v = case.x.clone().requires_grad_(), case.other
    (product,) = torch.autograd.grad((gradient(x, True) * v).sum(), x)
    if case.layer.straight_through:  # its gradient is not that of what it computes
        return "yes, of its own gradient"
    change = gradient(x + 1e-6 * v) - gradient(x - 1e-6 * v)
    torch.testing.assert_close(product, change / 2e-6, atol=1e-5, rtol=1e-4)


COMBINATIONS = {
    "autocast": autocast,
    "`torch.compile`": compiled,
    "gradient checkpointing": checkpointing,
    "`deepcopy`": deepcopy,
    "`pickle`, `torch.save`": saved,
    "`DataParallel`": data_parallel,
    "`DistributedDataParallel`": distributed,
    "double backward": double_backward,
    "`functional_call`": functional_call,
    "`func.grad`, `func.vjp`": func_grad,
    "`func.vmap`": func_vmap,
    "`vmap` of `grad`": sample_gradients,
    "`func.jvp`": func_jvp,
    "`torch.export`": exported,
    "`jit.trace`": traced,
    "`jit.script`": scripted,
    "dynamic quantization": quantized,
}

ROWS = list(rows_of_table())

#: the page has two tables, each narrow enough to read
TRAINING = list(COMBINATIONS)[:8]
FUNCTIONS_AND_PROGRAMS = list(COMBINATIONS)[8:]


def outcome(combination, row):
    """Return yes, no (it raises), or a check's own word; wrong results fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit and quantization are deprecated
        try:
            return COMBINATIONS[combination](Case(row)) or "yes"
        except AssertionError:
            raise
        except Exception:
            return "no"


def table(combinations):
    """Return the table of some combinations as Markdown."""
    lines = [["method", *combinations], ["---"] * (len(combinations) + 1)]
    for row in rows_of_table():
        lines.append([row, *(outcome(one, row) for one in combinations)])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def documented():
    """Return {(combination, row): word} of the page's tables."""
    words, header = {}, None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
        elif cells[0] in ROWS:
            words.update({(one, cells[0]): w for one, w in zip(header, cells)})
    return {key: word for key, word in words.items() if key[0] in COMBINATIONS}


def test_the_page_has_every_method_and_combination():
    everything = {(one, row) for one in COMBINATIONS for row in ROWS}
    assert set(documented()) == everything


SLOW = {"`torch.compile`": pytest.mark.slow}


@pytest.mark.parametrize(
    "combination",
    [pytest.param(one, marks=SLOW.get(one, ()), id=one) for one in COMBINATIONS],
)
def test_what_the_page_says_is_true(combination):
    found = {row: outcome(combination, row) for row in ROWS}
    said = {
        row: word for (one, row), word in documented().items() if one == combination
    }
    assert found == said, f"run {Path(__file__).name}, which prints the tables"


def main():
    for combinations in (TRAINING, FUNCTIONS_AND_PROGRAMS):
        print(table(combinations))


if __name__ == "__main__":
    main()
