"""Print the options with which a training's learning-rate schedule lasts to its end.

    python -m espnet_adastride.bin.fit_schedule --task asr \
        --config conf/train_asr_whisper_small.yaml --train_shape_file ...

It takes the options of ``espnet2.bin.asr_train`` or ``lm_train`` and prints
``--scheduler_conf warmup_steps_list=[...]``, or nothing if the schedule fits or is of
another kind (``espnet_adastride/evaluation/schedule.py``).
"""

import argparse

from espnet_adastride.bin.parsers import Parser, say
from espnet_adastride.config import read_config
from espnet_adastride.errors import one_line_errors
from espnet_adastride.evaluation.schedule import SCHEDULER, fitted_steps
from espnet_adastride.options import whole
from espnet_adastride.quiet import quiet_imports


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's own options."""
    parser = Parser(
        __doc__,
        epilog="All other options are those of the training.",
        allow_abbrev=False,
    )
    parser.add_argument("--task", choices=("asr", "lm"), default="asr", help="ESPnet's")
    parser.add_argument(
        "--processes", type=whole(1), default=1, help="training processes in all"
    )
    parser.add_argument("--config", help="configuration of the training")
    parser.add_argument("--scheduler", help="overrides that of the configuration")
    return parser


@one_line_errors
def main(cmd=None):
    """Run the command."""
    own, rest = get_parser().parse_known_args(cmd)
    config = read_config(own.config) if own.config else {}
    scheduler = own.scheduler or config.get("scheduler")
    if scheduler != SCHEDULER:
        return  # without ESPnet, which takes seconds to import
    rest += ["--scheduler", scheduler]
    rest += ["--config", own.config] if own.config else []
    with quiet_imports():
        import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
        from espnet_adastride.plugin import espnet, planning

    task = espnet.asr_task.ASRTask if own.task == "asr" else espnet.lm_task.LMTask
    args = task.get_parser().parse_args(rest)
    if args.iterator_type != "sequence" or args.multiple_iterator:
        return  # the number of batches is not known before the training
    batches = planning.espnet_batches(args, "train", own.processes)
    steps = fitted_steps(vars(args), len(batches))
    if steps is None:
        return
    earlier = args.scheduler_conf["warmup_steps_list"][-1]
    why = "jump up there" if earlier < steps[-1] else "hardly decay"
    say(
        f"warmup_steps_list ends at {earlier:g} updates, the training at {steps[-1]:g};"
        f" it is scaled to that, because the learning rate would {why}"
    )
    words = ",".join(f"{step:.10g}" for step in steps)
    print(f"--scheduler_conf warmup_steps_list=[{words}]")


if __name__ == "__main__":
    main()
