"""The Triton kernels without a GPU: interpreted, and compiled for one.

The interpreter shows that the arithmetic is right, the compiler that the kernels are
Triton that a GPU can run (types of loops, functions that exist there, registers).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from espnet_adastride import AdaStride
from espnet_adastride.downsampling import rows as rows_module

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments, **environment):
    """Run a Python of its own: Triton and the switch are read at import."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_interpreted_kernels_equal_the_definition():
    pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")
    cases = "tests/downsampling/triton_cases.py"
    run = python(
        *("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", cases),
        ADASTRIDE_TRITON="1",
        TRITON_INTERPRET="1",
        OMP_NUM_THREADS="1",
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert re.search(r"\d\d passed", run.stdout)


class Recorder:
    """Stands in the place of a kernel, and keeps what it is launched with."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        assert len(grid) == 1 and 0 < grid[0] < 2**31

        def launch(*arguments, **named):
            self.launches.append((self.kernel, arguments, named))

        return launch


@pytest.fixture
def triton_rows(monkeypatch, tmp_path):
    pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")
    from espnet_adastride.downsampling import triton_rows

    if triton_rows.INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set: there is nothing to compile")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return triton_rows


def launches_of(triton_rows, monkeypatch, dtype, size, steps, kind, bound):
    """Return (kernel, arguments, named) of a forward and a backward."""
    launches = []
    names = ["_score", "_place", "_apply"]
    names += ["_position_grad", "_place_grad", "_input_grad"]
    for name in names:
        recorder = Recorder(getattr(triton_rows, name), launches)
        monkeypatch.setattr(triton_rows, name, recorder)
    batch, width = 3, (steps + 1) // 2
    x = torch.empty(batch, steps, size, dtype=dtype)
    weight = torch.empty(size, dtype=torch.promote_types(dtype, torch.float32))
    lengths = torch.full((batch,), steps)
    settings = lengths, (lengths + 1) // 2
    z, positions, loss, *kept = triton_rows._forward(
        x, weight, None, *settings, width, 5.0, bound, kind
    )
    kept, by_positions = [positions, *kept], positions if kind else None
    triton_rows._backward(
        x, weight, *settings, kept, z, by_positions, loss, 5.0, bound, True, True
    )
    monkeypatch.undo()
    return launches


def compiled(kernel, arguments, named, capability):
    """Compile a launch for a compute capability, as the launch itself would."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {
        torch.float16: "*fp16",
        torch.bfloat16: "*bf16",
        torch.float32: "*fp32",
        torch.float64: "*fp64",
        torch.int32: "*i32",
        torch.int64: "*i64",
    }
    signature = dict.fromkeys(kernel.arg_names, "constexpr")
    attributes = {}
    for number, (name, value) in enumerate(zip(kernel.arg_names, arguments)):
        tensor = isinstance(value, torch.Tensor)
        signature[name] = types[value.dtype] if tensor else "i32"
        if tensor:
            attributes[number,] = [["tt.divisibility", 16]]
    constants = {k: v for k, v in named.items() if k != "num_warps"}
    assert set(constants) == {k for k, v in signature.items() if v == "constexpr"}
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": named["num_warps"]},
    )


@pytest.mark.parametrize(
    "dtype, size, steps, kind, bound, capability",
    [
        (torch.float32, 256, 1000, 0, 1.0, 90),
        (torch.bfloat16, 80, 9000, 2, None, 90),
        (torch.float64, 512, 300, 1, 1.0, 75),
    ],
)
def test_kernels_compile_for_a_gpu(
    triton_rows, dtype, size, steps, kind, bound, capability, monkeypatch, tmp_path
):
    launches = launches_of(triton_rows, monkeypatch, dtype, size, steps, kind, bound)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert len(launches) == 7
    for kernel, arguments, named in launches:
        result = compiled(kernel, arguments, named, capability)
        assert result.asm["cubin"]
        assert result.metadata.shared <= 48 * 1024
        # offsets into what is (B, T, D) are 64 bits wide
        offsets = re.findall(
            r"tt\.addptr.*tensor<\d+x1x!tt\.ptr<\w+>>, tensor<\d+x1x(i\d+)>",
            result.asm["ttir"],
        )
        assert set(offsets) == (set() if "place" in kernel.__name__ else {"i64"})
        # no atomics: sums have an order
        assert not re.search(r"\b(atom|red)\.", result.asm["ptx"])


def test_a_wrong_switch_is_one_clear_line():
    code = "import espnet_adastride as a; a.AdaStride(4, 2)"
    run = python("-c", code, ADASTRIDE_TRITON="yes")
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: ADASTRIDE_TRITON must be 1") and "'yes'" in last


@pytest.mark.slow
def test_without_a_gpu_or_triton_the_layer_works_as_before():
    """ADASTRIDE_TRITON=1 says "where they can be": not on the CPU."""
    code = """
import sys
sys.modules["triton"] = None
import torch
from espnet_adastride import AdaStride
from espnet_adastride.downsampling import rows
assert rows.TRITON_SWITCH == "1"
for switch in ("1", "", "0"):
    rows.TRITON_SWITCH = switch
    rows._KERNELS = rows._import_kernels()
    torch.manual_seed(0)
    x = torch.randn(1, 300, 4)
    assert rows.kernels_for(x) is None and rows._KERNELS is None
    print(AdaStride(4, 2)(x, torch.tensor([300])).output.sum().item())
"""
    run = python("-c", code, ADASTRIDE_TRITON="1")
    assert run.returncode == 0, run.stderr
    with_triton = python(
        "-c",
        code.replace('sys.modules["triton"] = None', "").replace(
            " and rows._KERNELS is None", ""
        ),
        ADASTRIDE_TRITON="1",
        TRITON_INTERPRET="0",
    )
    assert with_triton.returncode == 0, with_triton.stderr
    assert with_triton.stdout == run.stdout and len(run.stdout.split()) == 3


def test_kernels_are_off_unless_asked_for(monkeypatch):
    monkeypatch.setattr(rows_module, "TRITON_SWITCH", "")
    assert not rows_module.triton_is_wanted()
    monkeypatch.setattr(rows_module, "TRITON_SWITCH", "1")
    assert rows_module.triton_is_wanted()
    for wrong in ("on", " 1", "2"):
        monkeypatch.setattr(rows_module, "TRITON_SWITCH", wrong)
        with pytest.raises(ValueError, match="ADASTRIDE_TRITON must be"):
            AdaStride(4, 2)
