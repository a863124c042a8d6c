"""Train VQ-VAEs with several downsampling methods, rates and seeds, and compare them.

    python -m espnet_adastride.bin.compare_vqvae --corpus /path/to/recordings \
        --config conf/train_vqvae.yaml --exp exp \
        --methods strided_conv avg_pool adastride_f --rates 4 8 16 --seeds 0 1 2

A method may carry options, and every stage may have its own method:
``adastride:sigma_square=2``, ``strided_conv+strided_conv+adastride_f``.

A run is a method, a rate and a seed, trained with ESPnet. Finished runs
(``EXP/records/*.json.gz``) are kept; interrupted ones resume after their last epoch.

    EXP/data, EXP/stats             train, valid, test; shapes and feature statistics
    EXP/METHOD_RATEx_seedN/         training.yaml, train.log, the model, listen/
    EXP/records/                    a record of every run (experiments/records.py)
    EXP/RESULTS.md, EXP/listen.html the table; a page to compare reconstructions by ear
"""

import argparse
import re
from functools import partial
from pathlib import Path

import yaml

from espnet_adastride.bin.parsers import Parser, add_run_options, command, read_methods
from espnet_adastride.config import merge_configs, read_config
from espnet_adastride.corpora.unlabelled import (
    find_recordings,
    prepare_recordings,
    read_set,
)
from espnet_adastride.errors import UserError, located, resumable
from espnet_adastride.experiments.folders import (
    claim_run,
    run_folders,
    run_name,
    write_result,
)
from espnet_adastride.experiments.records import training_record
from espnet_adastride.files import alone, write_text
from espnet_adastride.options import split_list, whole
from espnet_adastride.quiet import quiet_imports
from espnet_adastride.recipe.jobs import Interrupted, Job, run_jobs


def get_parser():
    parser = Parser(__doc__)
    corpus = "folder of recordings; optional trans.txt: NAME TEXT"
    config, methods = "YAML file of all hyper-parameters", "strided_conv avg_pool"
    add_run_options(parser, corpus, config, f"{methods} adastride_f", "0 1 2")
    parser.add_argument(
        "--rates", nargs="+", default=["4", "8", "16"], help="powers of 2"
    )
    parser.add_argument(
        "--listen",
        type=whole(0),
        default=3,
        help="test recordings on the listening page",
    )
    return parser


def read_lists(args):
    """Return the methods, rates and seeds; a list may be one word with spaces.

    Raises:
        UserError: a word that is not a number, or an empty list.
    """
    methods, seeds = read_methods(args, hint=", or set RECORDINGS=")
    rates = split_list(args.rates)
    for word in rates:
        if not re.fullmatch(r"\d{1,4}", word) or bin(int(word)).count("1") != 1:
            raise UserError(f"--rates {word}: give powers of 2, e.g. 4 8 16")
    if "1" in rates:
        raise UserError("--rates 1: does not downsample; give at least 2")
    if not rates:
        raise UserError("--rates: give at least one")
    return methods, [int(word) for word in rates], seeds


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

    options = argparse.Namespace(
        features_conf=config.get("features_conf", {}),
        network_conf=config.get("network_conf", {}),
        stats_file=None,
        vp_weight=1.0,
    )
    with located(name):
        return VQVAETask.build_model(options)


# ----------------------------------------------------------------------------- stages


def data_options(exp):
    """Return the ESPnet options that name the training data."""
    options = []
    for part in ("train", "valid"):
        options += [
            f"--{part}_data_path_and_name_and_type",
            f"{exp / 'data' / part / 'wav.scp'},speech,sound",
        ]
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
                "--exp, "
                f"or remove {exp}"
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


def train_run(exp, folder, method, seed, listen):
    """Train a run or resume it, then measure it, in the caller's process."""
    import torch

    from espnet_adastride.bin.vqvae_train import main as vqvae_train
    from espnet_adastride.evaluation.vqvae import measure
    from espnet_adastride.plugin.vqvae_task import load_vqvae
    from espnet_adastride.report.listening import listen as write_sounds

    torch.set_num_threads(1)  # one core per run
    stats = exp / "stats"
    command = ["--config", str(folder / "training.yaml"), "--output_dir", str(folder)]
    command += ["--ngpu", "0", "--resume", "true", *data_options(exp)]
    command += ["--stats_file", str(stats / "train" / "feats_stats.npz")]
    for part in ("train", "valid"):
        command += [f"--{part}_shape_file", str(stats / part / "speech_shape")]
    vqvae_train(command)
    model = load_vqvae(folder)
    test = read_set(exp / "data" / "test")
    # different sentences rather than several readings of one
    first = list({recording.group: recording for recording in reversed(test)}.values())
    chosen = sorted(first)[:listen]
    write_sounds(model.features, model.network, chosen, folder / "listen")
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
            model = check_config(name, run_config(config, method, rate, seed))
    with alone(exp, "--exp"):
        told = prepare_recordings(args.corpus, exp / "data", model.features.fs)
        print(told, flush=True)
        collect_statistics(exp, config)
        functions = {}
        for method, rate, seed in runs:
            folder = exp / run_name(method.word, f"{rate}x", f"seed{seed}")
            claim_run(folder, run_config(config, method, rate, seed))
            own = (exp, folder, method, seed, args.listen)
            functions[folder] = partial(train_run, *own)
        run_folders(functions, args.nj)


def report(args):
    """Write the table, the picture and the listening page (lowest seeds)."""
    from espnet_adastride.experiments.folders import read_results
    from espnet_adastride.experiments.vqvae import format_table, plot_bits, sort_runs
    from espnet_adastride.report.listening import page
    from espnet_adastride.report.style import save_figure

    exp = Path(args.exp).resolve()
    runs = sort_runs(read_results(exp))
    table = format_table(runs, args.reference)
    write_text(exp / "RESULTS.md", table)
    first = {}
    for run in sorted(runs, key=lambda r: r["seed"]):
        first.setdefault((run["rate"], run["method"]), run)
    shown = sorted(first.values(), key=lambda r: (r["rate"], r["method"]))
    names = [
        run_name(run["method"], f"{run['rate']:g}x", f"seed{run['seed']}")
        for run in shown
    ]
    folders = [exp / name / "listen" for name in names]
    write_text(exp / "listen.html", page(shown, folders))
    save_figure(plot_bits(runs), exp / "bits.png")
    print(f"\n{table}\nListening page: {exp / 'listen.html'}")
    print(f"Error over bits per second: {exp / 'bits.png'}")


@command(get_parser)
def main(args):
    import torch

    torch.set_num_threads(1)
    methods, rates, seeds = read_lists(args)
    if args.train:
        read_config(args.config)  # before ESPnet is imported
        find_recordings(args.corpus)
        with quiet_imports():
            import espnet_adastride.plugin.vqvae_task  # noqa: F401  (before forking)
        with resumable(Interrupted):
            train(args, methods, rates, seeds)
    report(args)


if __name__ == "__main__":
    main()
