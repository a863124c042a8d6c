"""The model that a run of an experiment on extracted features trains."""

from espnet2.tasks.asr import ASRTask


def model_of_run(experiment, run, pieces, folder):
    """Build the model of a run, with made-up subword pieces."""
    tokens = folder / "tokens.txt"
    words = ["<blank>", "<unk>", *(f"p{n}" for n in range(pieces - 3)), "<sos/eos>"]
    tokens.write_text("\n".join(words) + "\n")
    args = ASRTask.get_parser().parse_args(
        ["--config", str(experiment.config_path), "--token_list", str(tokens)]
        + ["--token_type", "char", "--input_size", "384"]
        + ["--output_dir", str(folder), *run.asr_args.split()]
    )
    return ASRTask.build_model(args)
