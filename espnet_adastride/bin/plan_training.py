"""Check the data and cost of a training before it starts; reject invalid settings.

    python -m espnet_adastride.bin.plan_training --plan exp/asr_train/plan.md \
        --config conf/train_asr_conformer.yaml --token_list ... \
        --train_shape_file ... --valid_shape_file ... \
        --train_data_path_and_name_and_type ...

It takes the options of ``espnet2.bin.asr_train`` and its own, in any order, and prints
a page: utterances that are too short or that CTC cannot align at this rate; padding and
batches; parameters and multiply-accumulates; measured time and memory of a step.
``--input_layer`` may be any of ESPnet's or of the plugin's. These errors stop it with
one line: a batch of utterances that are all too short, too large a share that CTC
cannot align, an utterance larger than a batch, fewer batches than ``accum_grad``. The
first shape file must be that of the speech, the second that of the text, as in ESPnet's
recipes.
"""

import argparse
import logging

from espnet_adastride.bin.parsers import Parser
from espnet_adastride.errors import (
    NotPlanned,
    UnknownTimesError,
    UserError,
    one_line_errors,
)
from espnet_adastride.options import real, whole
from espnet_adastride.quiet import quiet_imports


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's own options."""
    parser = Parser(
        __doc__,
        epilog="All other options are those of espnet2.bin.asr_train.",
        allow_abbrev=False,
    )
    parser.add_argument("--plan", help="file for the page (Markdown)")
    parser.add_argument(
        "--max_unalignable",
        type=real(0, 1),
        default=0.1,
        help="fail if CTC cannot align a larger share of the training utterances",
    )
    parser.add_argument(
        "--plan_seconds",
        type=real(0),
        default=20.0,
        help="approximate time limit for measuring steps in s; larger batches are "
        "extrapolated; 0: count only",
    )
    parser.add_argument(
        "--processes", type=whole(1), default=1, help="training processes in all"
    )
    return parser


def make_plan(own: argparse.Namespace, args: argparse.Namespace) -> str:
    """Return the page and write it to ``own.plan``.

    Args:
        own: the options of :func:`get_parser`.
        args: training options parsed by ``ASRTask.get_parser()``.

    Raises:
        UserError: the training cannot work.
        NotPlanned, UnknownTimesError: its lengths cannot be determined.
        ConfigurationError: a wrong word in the configuration.
    """
    from espnet_adastride.evaluation import plan
    from espnet_adastride.plugin import planning, training_cost
    from espnet_adastride.plugin.espnet import asr_task
    from espnet_adastride.report.plan import cost_lines, set_table, write_plan

    if args.iterator_type != "sequence":
        raise planning.NotPlanned(f"iterator_type {args.iterator_type}")
    for mode in ("train", "valid"):
        if len(getattr(args, f"{mode}_shape_file")) < 2:
            raise UserError(f"give --{mode}_shape_file twice: speech, then text")
    warnings = []
    for mode, name in (("train", "training"), ("valid", "validation")):
        kind, _, limit = planning.batch_options(args, mode)
        if kind not in ("numel", "length"):
            continue
        files = getattr(args, f"{mode}_shape_file")
        shapes = [planning.read_shapes(path) for path in files]
        bins = plan.utterance_bins(shapes, kind)
        try:
            plan.refuse_batch_bins(name, bins, limit)
        except UserError as error:
            if mode == "train" or limit <= 0:
                raise
            warnings.append(str(error))  # a batch of one works
        if kind == "numel" and mode == "train":
            tokens = planning.count_tokens(args.token_list)
            warnings.append(plan.vocabulary_warning(files[1], shapes[1], tokens))

    given = args.encoder_conf
    model = asr_task.ASRTask.build_model(args)
    args.encoder_conf = given  # the page says what was chosen, without all defaults
    lengths_of = planning.ModelLengths(model, args.input_size)
    with_ctc = getattr(model, "ctc", None) is not None
    frontend = lengths_of.frontend
    if frontend is not None and frontend.untrainable is not None:
        raise UserError(f"frontend {frontend.words}: {frontend.untrainable}")
    sets = [
        planning.set_lengths(args, mode, lengths_of, own.processes, with_ctc)
        for mode in ("train", "valid")
    ]
    for one, training in zip(sets, (True, False)):
        if frontend is not None:
            longest = frontend.needed(training)
            plan.refuse_lengths_of_frontend(one, frontend.words, longest, frontend.most)
        plan.refuse_what_cannot_work(
            one, lengths_of.limit, own.max_unalignable, args.token_type
        )
        warnings += plan.set_warnings(one, lengths_of.limit)
    batches = args.num_iters_per_epoch or len(sets[0].batches)
    plan.refuse_no_update(batches, args.accum_grad)

    texts = planning.Texts(args, args.train_data_path_and_name_and_type)
    middle = sorted(sets[0].samples, key=sets[0].samples.get)[len(sets[0].samples) // 2]
    typical = training_cost.make_batch(sets[0], texts, [middle], args.input_size)
    lowest = training_cost.use_lowest_stride(model)
    cost = training_cost.model_cost(args, model, typical, sets[0].rate)
    cost = cost._replace(words=cost.words + lowest)
    measured = training_cost.measure_steps(
        args, model, sets[0], texts, own.processes, own.plan_seconds
    )
    warnings.append(plan.memory_warning(measured))
    return write_plan(
        own.plan,
        args.output_dir or "a training",
        set_table(sets, lengths_of.limit),
        [
            f"- {planning.describe_frames(args, frontend)}",
            *cost_lines(sets, cost, measured, args.num_iters_per_epoch),
        ],
        [line for line in warnings if line],
    )


@one_line_errors
def main(cmd=None):
    """Run the command: print the page, or one line with the reason why not."""
    own, rest = get_parser().parse_known_args(cmd)
    with quiet_imports():
        from espnet_adastride.plugin.espnet import asr_task
        from espnet_adastride.report.plan import write_plan

    parser = asr_task.ASRTask.get_parser()
    # ESPnet's own has 150 lines, which hide the error below them
    parser.usage = "%(prog)s [options] [options of espnet2.bin.asr_train]"
    args = parser.parse_args(rest)
    logging.basicConfig(level="WARNING")
    try:
        text = make_plan(own, args)
    except (NotPlanned, UnknownTimesError) as error:
        reason = str(error)
        if isinstance(error, NotPlanned):
            reason = f"lengths and batches of {error} cannot be determined"
        title = args.output_dir or "a training"
        text = write_plan(own.plan, title, "", [f"- not planned: {reason}"], [])
    print(text, end="")


if __name__ == "__main__":
    main()
