"""Training of VQ-VAEs with ESPnet's trainer: methods, rates and seeds.

:func:`train` prepares the data, has ESPnet collect the statistics and does the runs;
:func:`train_run` trains and measures one. ``vqvae.py`` makes the tables.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path

import yaml

from espnet_adastride.config import merge_configs, read_config
from espnet_adastride.corpora.unlabelled import prepare_recordings, read_set
from espnet_adastride.errors import UserError, located, one_line_errors
from espnet_adastride.evaluation.schedule import SCHEDULER, fitted_steps
from espnet_adastride.experiments.espnet_options import (
    check_criterion,
    complete_options,
)
from espnet_adastride.experiments.folders import (
    claim_run,
    run_folders,
    run_name,
    write_result,
)
from espnet_adastride.experiments.records import training_record
from espnet_adastride.files import alone, write_text
from espnet_adastride.networks.saved_models import Criterion
from espnet_adastride.recipe.jobs import Job, run_jobs

#: the criterion by which ESPnet keeps the model that is measured
CRITERION = Criterion("valid", "loss_mse", "min")


def run_config(config, method, rate, seed):
    """Return a run's configuration: the file's, with method, stages of 2 and seed."""
    own = {
        "method": method.names[0] if len(method.names) == 1 else list(method.names),
        "strides": [2] * (rate.bit_length() - 1),
    }
    if method.options:
        own["downsampler_conf"] = method.options
    return merge_configs([config, {"network_conf": own, "seed": seed}])


def check_config(name, config):
    """Build the model of a configuration to find wrong words before training.

    Raises:
        UserError: naming the wrong word.
    """
    from espnet_adastride.plugin.vqvae_task import VQVAETask

    with located(name):
        options = complete_options(VQVAETask, config)
        check_criterion(options, CRITERION)
        return VQVAETask.build_model(
            argparse.Namespace(**{**options, "stats_file": None})
        )


def stretch_schedule(config, shapes):
    """Return the configuration with a schedule that lasts the whole training.

    Args:
        shapes: file with the lengths of the training set (collect_stats).
    """
    from espnet_adastride.plugin.espnet import build_batch_sampler
    from espnet_adastride.plugin.vqvae_task import VQVAETask

    options = complete_options(VQVAETask, config)
    if options["iterator_type"] != "sequence" or options["scheduler"] != SCHEDULER:
        return config
    batches = build_batch_sampler(
        type=options["batch_type"],
        batch_size=options["batch_size"],
        batch_bins=options["batch_bins"],
        shape_files=[str(shapes)],
        drop_last=options["drop_last_iter"],
        fold_lengths=options["fold_length"],
    )
    steps = fitted_steps(options, len(list(batches)))
    if steps is None:
        return config
    return merge_configs([config, {"scheduler_conf": {"warmup_steps_list": steps}}])


def data_options(exp):
    """Return the ESPnet options that name the training data."""
    options = []
    for part in ("train", "valid"):
        option = f"--{part}_data_path_and_name_and_type"
        options += [option, f"{exp / 'data' / part / 'wav.scp'},speech,sound"]
    return options


def collect_statistics(exp, config):
    """Write EXP/stats with ESPnet's collect_stats, in a separate process."""
    from espnet_adastride.plugin.vqvae_task import VQVAETask

    stats = exp / "stats"
    wanted = yaml.safe_dump(config.get("features_conf", {}))
    done = stats / "features_conf.yaml"
    if done.is_file():
        if done.read_text(encoding="utf-8") != wanted:
            raise UserError(
                f"{stats} has statistics for another features_conf; give another "
                f"--exp, or remove {exp}"
            )
        return
    path = stats / "training.yaml"
    write_text(path, yaml.safe_dump(config))
    command = ["--config", str(path), "--collect_stats", "true", "--ngpu", "0"]
    command += ["--output_dir", str(stats), "--batch_type", "unsorted"]
    command += ["--batch_size", "8", *data_options(exp)]
    for part in ("train", "valid"):
        command += [f"--{part}_shape_file", str(exp / "data" / part / "wav.scp")]
    log = stats / "collect.log"
    print(f"statistics: log {log}", flush=True)
    run_jobs([Job(partial(VQVAETask.main, cmd=command), log)])
    write_text(done, wanted)


def train_run(exp, folder, method, seed):
    """Train a run or resume it, then measure it, in the caller's process."""
    import torch

    from espnet_adastride.evaluation.vqvae import measure
    from espnet_adastride.networks import saving
    from espnet_adastride.plugin.vqvae_task import VQVAETask, load_vqvae

    torch.set_num_threads(1)  # one core per run
    stats = exp / "stats"
    command = ["--config", str(folder / "training.yaml"), "--output_dir", str(folder)]
    command += ["--ngpu", "0", "--resume", "true", *data_options(exp)]
    command += ["--stats_file", str(stats / "train" / "feats_stats.npz")]
    for part in ("train", "valid"):
        command += [f"--{part}_shape_file", str(stats / part / "speech_shape")]
    saving.install()
    one_line_errors(lambda words: VQVAETask.main(cmd=words))(command)
    model = load_vqvae(folder)
    test = read_set(exp / "data" / "test")
    figures = measure(model.features, model.network, test)
    write_result(
        folder,
        "vqvae",
        method.word,
        seed,
        read_config(folder / "training.yaml"),
        test={"utterances": figures.pop("utterances")},
        measured={
            "parameters": sum(p.numel() for p in model.parameters()),
            "stats": model.network.encoder.reported_stats(),
            **figures,
        },
        **training_record(folder),
    )


def write_sounds(exp, folder, number):
    """Write some test recordings for the listening page, if they are not there."""
    from espnet_adastride.plugin.vqvae_task import load_vqvae
    from espnet_adastride.report.listening import listen

    test = read_set(exp / "data" / "test")
    # different sentences rather than several readings of one
    first = list({recording.group: recording for recording in reversed(test)}.values())
    chosen = sorted(first)[:number]
    sounds = folder / "listen"
    if {path.stem for path in sounds.glob("*.png")} != {one.id for one in chosen}:
        shutil.rmtree(sounds, ignore_errors=True)
        model = load_vqvae(folder)
        listen(model.features, model.network, chosen, sounds)


def train(args, methods, rates, seeds):
    """Prepare the data and train the unfinished runs.

    Raises:
        UserError: bad input, or a run that failed.
    """
    exp = Path(args.exp)
    config = read_config(args.config)
    # all methods at all rates of a seed before the next seed
    runs = [(m, r, s) for s in seeds for r in rates for m in methods]
    for method, rate, seed in runs:
        if seed == seeds[0]:
            name = f"{method.word}_{rate}x_seed{seed}"
            with located(args.config):
                model = check_config(name, run_config(config, method, rate, seed))
    with alone(exp, "--exp"):
        told = prepare_recordings(args.corpus, exp / "data", model.features.fs)
        print(told, flush=True)
        collect_statistics(exp, config)
        config = stretch_schedule(config, exp / "stats" / "train" / "speech_shape")
        functions = {}
        for method, rate, seed in runs:
            folder = exp / run_name(method.word, f"{rate}x", f"seed{seed}")
            claim_run(folder, run_config(config, method, rate, seed))
            functions[folder] = partial(train_run, exp, folder, method, seed)
        run_folders(functions, args.nj)
        for folder in functions:
            if (folder / "config.yaml").is_file():  # not only the record, copied here
                write_sounds(exp, folder, args.listen)
