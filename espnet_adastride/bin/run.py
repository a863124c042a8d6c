r"""Run an ESPnet tool with the plugin registered.

It takes the arguments of ``python3``, so that it can replace it:

    python3 -m espnet_adastride.bin.run -m espnet2.bin.asr_train --config train.yaml
    ./asr.sh --python "python3 -m espnet_adastride.bin.run" ...

On a CPU with bfloat16 matrix units, ``ADASTRIDE_CPU_PRECISION=bf16`` in the environment
lets float32 matrix products and convolutions use them, as TF32 does on a GPU: training
took 0.75 of the time on such a machine. Sums, softmax and AdaStride's positions are not
affected. By default, PyTorch is unchanged.

The registration is at module level, because spawned ``multiprocessing`` children only
re-import the main module by name.
"""

import argparse
import atexit
import gc
import importlib
import os
import runpy
import sys

from espnet_adastride.bin.parsers import Parser, say
from espnet_adastride.errors import UserError, called_command, fail, silent_broken_pipe

#: run as imported, because the plugin changes a class in the module, which running by
#: name would define again; the transducer's because ESPnet 202511 reads the source of
#: the module that it runs in
AS_IMPORTED = (
    "espnet2.bin.asr_align",
    "espnet2.bin.asr_transducer_inference",
    "espnet2.bin.s2t_inference",
    "espnet2.bin.s2t_inference_ctc",
)

#: for programs that do not use ESPnet, it need not be installed
ASKS_FOR_HELP = (
    __name__ == "__main__" or sys.argv[0] == "adastride run"  # of cli.py
) and sys.argv[1:2] in (["-h"], ["--help"], ["--version"])
if not ASKS_FOR_HELP:
    import torch
    from torch import distributed

    import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
    from espnet_adastride.networks import saving

    # ESPnet overwrites checkpoint.pth in place: a kill would corrupt it
    saving.install()


def get_parser():
    """Return the parser of the arguments before the tool's own."""
    parser = Parser(
        __doc__,
        usage="%(prog)s (-m MODULE | -c CODE | FILE | -) [arguments of the tool]",
    )
    parser.add_argument("-m", metavar="MODULE", help="e.g. espnet2.bin.asr_train")
    parser.add_argument("-c", metavar="CODE", help="a program given as a string")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        help="a file or -, and the arguments of the tool",
    )
    return parser


def split_arguments(argv):
    """Split argv into (kind, target, the tool's arguments), as Python does."""
    if argv and argv[0] in ("-m", "-c") and len(argv) > 1:
        return argv[0], argv[1], argv[2:]
    if argv and (argv[0] == "-" or not argv[0].startswith("-")):
        return "file", argv[0], argv[1:]
    if argv:
        get_parser().parse_args(argv)  # --help, or an error
        get_parser().error("name a module (-m), a program (-c) or a file")
    return "file", "-", []


def set_cpu_precision(precision):
    """Compute float32 products on the CPU in ``bf16``; empty changes nothing.

    Raises:
        UserError: for any other word.
    """
    if precision == "bf16":
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
    elif precision:
        raise UserError(
            f"ADASTRIDE_CPU_PRECISION={precision}: unknown precision; give bf16, or "
            "nothing for float32"
        )


def tell_rank_under_mpi(arguments):
    """Return a tool's arguments, adding the rank if ESPnet would not find it.

    Under ``--dist_launcher mpi``, ESPnet asks MPI for a node's rank only if the node
    has several GPUs. With one GPU, or none, it stops.

    Raises:
        UserError: MPI is not available.
    """
    given = dict(zip(arguments, arguments[1:]))  # the form of espnet2.bin.launch
    if given.get("--dist_launcher") != "mpi":
        return arguments
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: MPI library missing
        raise UserError(
            f"--dist_launcher mpi: mpi4py cannot be used ({error}); pip install mpi4py "
            "in the environment that trains, and load MPI on the nodes (path.sh)"
        ) from None
    if given.get("--ngpu", "0") not in ("0", "1"):
        return arguments
    rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
    words = ["--dist_launcher", "none", "--dist_rank", str(rank)]
    return [*arguments, *words, "--dist_world_size", str(size)]


def leave_together():
    """End a distributed run cleanly, and the process with status 0.

    ESPnet leaves the process group open: a Gloo process whose peer has already exited
    can be aborted, and the launcher then reports the finished training as failed. The
    same happens if a Gloo thread frees a tensor during interpreter shutdown, and DDP
    keeps these threads until then: the interpreter must not shut down normally.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    distributed.barrier()
    distributed.destroy_process_group()
    gc.collect()  # close files that the tool left open
    atexit._run_exitfuncs()
    if "mpi4py.MPI" in sys.modules:
        sys.modules["mpi4py.MPI"].Finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@silent_broken_pipe()
def main(cmd=None):
    """Run the tool; print a user's mistake as one line and exit with 1."""
    if ASKS_FOR_HELP:
        get_parser().parse_args(sys.argv[1:])
    kind, target, arguments = split_arguments(sys.argv[1:] if cmd is None else cmd)
    try:
        set_cpu_precision(os.environ.get("ADASTRIDE_CPU_PRECISION", ""))
        arguments = tell_rank_under_mpi(arguments)
        sys.argv = [target if kind == "file" else sys.argv[0], *arguments]
        if kind == "-m" and target in AS_IMPORTED:
            importlib.import_module(target).main(arguments)
        elif kind == "-m":
            # alter_sys would make the tool the main module; spawned children would then
            # re-import the tool without the plugin
            runpy.run_module(target, run_name="__main__", alter_sys=False)
        elif kind == "-c" or target == "-":
            code = target if kind == "-c" else sys.stdin.read()
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(target, run_name="__main__")
        leave_together()
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        if not called_command():
            raise
        say("interrupted; with --resume true a training resumes at its last epoch")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
