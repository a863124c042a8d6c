"""Training of classifiers through ESPnet's task ``cls``, and their test.

:func:`train` prepares the data and does the runs: :func:`run_config` is the ESPnet
configuration of a run, :func:`train_run` trains and tests it. The command is
``bin/classify_espnet.py``.
"""

import argparse
import dataclasses
import math
import os
from functools import partial
from pathlib import Path

import yaml

from espnet_adastride.config import merge_configs, read_config, refuse_changes
from espnet_adastride.corpora.audio import read_samples
from espnet_adastride.corpora.clips import (
    describe_clips,
    find_clips,
    folds_in_a_round,
    identify_clips,
    split_clips,
)
from espnet_adastride.corpora.espnet_clips import utterance_id, write_data
from espnet_adastride.corpora.kaldi import read_scp
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.schedule import count_steps
from espnet_adastride.experiments.espnet_options import (
    check_criterion,
    complete_options,
)
from espnet_adastride.experiments.folders import (
    claim_audio,
    claim_run,
    is_finished,
    run_folders,
    run_name,
    write_result,
)
from espnet_adastride.experiments.records import training_record
from espnet_adastride.files import alone, write_text
from espnet_adastride.networks.saved_models import Criterion
from espnet_adastride.quiet import quiet_imports

#: the tested model, and the criterion with which ESPnet keeps it
MODEL = "valid.acc.best.pth"
CRITERION = Criterion("valid", "acc", "max")


def layer_config(config, method):
    """Return the configuration with a method and its options."""
    from espnet_adastride.downsampling.registry import available_downsamplers

    names = method.names[0] if len(method.names) == 1 else list(method.names)
    if config.get("encoder") == "resnet":
        own = {"method": names, "method_conf": method.options}
        return merge_configs([config, {"encoder_conf": own}])
    own = {"input_layer": method.names[0], "input_layer_conf": method.options}
    if len(method.names) > 1:
        own["input_layer_conf"] = {**method.options, "method": names}
    config = merge_configs([config, {"encoder_conf": own}])
    if method.names[0] not in available_downsamplers() and not method.options:
        # ESPnet's input layers take no options
        del config["encoder_conf"]["input_layer_conf"]
    return config


def stretch_schedule(config, clips):
    """Return the configuration with its schedule scaled to the whole training.

    ESPnet counts steps, and the steps of an epoch depend on the number of clips: a
    schedule with ``total_steps`` keeps its shape and ends with the last epoch. It may
    be off by one step an epoch, because shuffled clips sometimes make one batch more or
    less.
    """
    from espnet_adastride.plugin import espnet

    options = complete_options(espnet.cls_task.CLSTask, config)
    schedule = options["scheduler_conf"] or {}
    if not schedule.get("total_steps") or options["batch_type"] != "unsorted":
        return config  # batches by length: their number is unknown here
    batches = max(1, clips // options["batch_size"])
    total = count_steps(options, math.ceil(clips / (clips // batches)))  # as ESPnet
    part = schedule.get("warmup_steps", 0) / schedule["total_steps"]
    own = {"total_steps": total, "warmup_steps": round(part * total)}
    return merge_configs([config, {"scheduler_conf": own}])


def run_config(config, features, method, seed, clips):
    """Return the ESPnet options of a run.

    Args:
        config: the configuration in the file.
        features: ``features`` of the data configuration.
        method: of the strides.
        seed: of the run.
        clips: number of them in the training set.
    """
    frontend = {
        "fs": features.sample_rate,
        "n_fft": features.n_fft,
        "win_length": features.n_fft,
        "hop_length": features.hop_length,
        "n_mels": features.n_mels,
    }
    own = {"frontend_conf": frontend, "token_type": "word", "seed": seed}
    return stretch_schedule(merge_configs([layer_config(config, method), own]), clips)


def check_model(name, config, classes):
    """Build the model of a configuration to find wrong words before training.

    Raises:
        UserError: naming the wrong word.
    """
    from espnet_adastride.plugin import espnet

    if config.get("normalize", "utterance_mvn") == "global_mvn":
        raise UserError(
            "normalize: global_mvn needs statistics, which this command does not "
            "collect; use utterance_mvn or null"
        )
    options = complete_options(espnet.cls_task.CLSTask, config)
    check_criterion(options, CRITERION)
    args = argparse.Namespace(**options)
    args.token_list = [*classes, "<unk>"]
    try:
        espnet.cls_task.CLSTask.build_model(args)
    except Exception as error:  # ESPnet's classes raise many kinds
        raise UserError(f"{name}: {' '.join(str(error).split())}") from None


def claim_data(exp, options, clips):
    """Write split and clips that the runs of a folder share, or check them.

    Raises:
        UserError: the folder holds runs, also interrupted ones, of other clips or of
            another split, which could be tested on what they were trained on, or a
            clip was changed since.
    """
    path = exp / "data" / "settings.yaml"
    own = {"data": dataclasses.asdict(options.data), "clips": identify_clips(clips)}
    begun = [*exp.glob("*/checkpoint.pth"), *exp.glob("records/*")]
    if path.is_file() and begun:
        refuse_changes(exp, read_config(path), own, "runs")
    claim_audio(exp, clips, bool(begun))
    write_text(path, yaml.safe_dump(own, sort_keys=False))


def train_run(folder, data, method, seed, tested, names, number, ngpu):
    """Train a run or resume it, then test it, in the caller's process.

    Args:
        folder: gets the model; the record is written beside it, into ``records/``.
        data: of the seed: train, valid, test, classes.txt.
        method, seed: of the strides, and of split and training.
        tested: the test clips.
        names: {class as ESPnet has it, without white space: class}.
        number: of the round of the cross-validation, or the seed.
        ngpu: 0 or 1.
    """
    import numpy as np
    import torch

    from espnet_adastride.plugin.espnet import cls_train

    torch.set_num_threads(1)  # one core per run
    options = ["--config", str(folder / "training.yaml"), "--output_dir", str(folder)]
    options += ["--token_list", str(data / "classes.txt"), "--resume", "true"]
    options += ["--ngpu", str(ngpu)]
    for part in ("train", "valid"):
        option = f"--{part}_data_path_and_name_and_type"
        options += [option, f"{data / part / 'wav.scp'},speech,sound"]
        options += [option, f"{data / part / 'label'},label,text"]
        options += [f"--{part}_shape_file", str(data / part / "shape")]
    cls_train(options)
    found = classify(folder, data, tested, names, "cuda" if ngpu else "cpu")
    predictions = found.pop("predictions")
    training = training_record(folder)
    right = [predictions[clip.id] == clip.label for clip in tested]
    write_result(
        folder,
        "classification",
        method.word,
        seed,
        read_config(folder / "training.yaml"),
        measured={
            "valid_accuracy": 100.0 * max(training["learning"]["valid"]["acc"]),
            **found,
        },
        test={
            "round": number,
            "accuracy": 100.0 * float(np.mean(right)),
            "predictions": predictions,
            "groups": {clip.id: clip.group for clip in tested},
        },
        **training,
    )


def classify(folder, data, clips, names, device):
    """Return a trained model's predictions for the clips, its size and rate."""
    from espnet_adastride.plugin.espnet import Classification

    tool = Classification(
        str(folder / "config.yaml"), str(folder / MODEL), device=device
    )
    encoder = tool.classification_model.encoder
    frames = []
    encoder.register_forward_hook(
        lambda _, inputs, outputs: frames.append((inputs[1].sum(), outputs[1].sum()))
    )
    paths = read_scp(data / "test" / "wav.scp")
    predictions = {}
    for clip in clips:
        speech, _ = read_samples(paths[utterance_id(clip.id)])
        word = tool(speech[:, 0])[2]
        predictions[clip.id] = names.get(word, word)  # or <unk>
    before, after = (int(sum(column)) for column in zip(*frames))
    reported = getattr(encoder, "reported_stats", dict)()
    return {
        "predictions": predictions,
        "parameters": sum(p.numel() for p in tool.classification_model.parameters()),
        "rate": before / after,
        "stats": reported,
    }


def train(args, methods, seeds):
    """Prepare the data and train the unfinished runs.

    Raises:
        UserError: bad input, or a run that failed.
    """
    import torch

    from espnet_adastride.experiments.classification.options import read_options

    if args.ngpu:
        # this query does not initialise CUDA, so forked processes can use it
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        if not torch.cuda.is_available():
            raise UserError(f"--ngpu {args.ngpu}: no GPU found; give 0")
    exp, config = Path(args.exp), read_config(args.config)
    options = read_options(args.data_config)
    split, features = options.data.split, options.features
    clips = find_clips(args.corpus, options.data.layout)
    print(describe_clips(clips, split, seeds), flush=True)
    names = {utterance_id(clip.label): clip.label for clip in clips}
    with quiet_imports():
        import espnet_adastride.plugin  # noqa: F401  (registers the encoder)
        from espnet_adastride.networks import saving
        from espnet_adastride.plugin.espnet import cls_train  # noqa: F401  (to fork)
    saving.install()
    functions = {}
    with alone(exp, "--exp"):
        claim_data(exp, options, clips)
        for seed in seeds:
            parts = split_clips(clips, split, seed)
            data, waiting = exp / "data" / f"seed{seed}", False
            tested = [clips[index] for index in parts["test"]]
            number = seed // folds_in_a_round(clips, split)
            for method in methods:
                folder = exp / run_name(method.word, f"seed{seed}")
                own = run_config(config, features, method, seed, len(parts["train"]))
                if seed == seeds[0]:
                    check_model(method.word, own, sorted(names))
                claim_run(folder, own)
                own = (folder, data, method, seed, tested, names, number, args.ngpu)
                functions[folder] = partial(train_run, *own)
                waiting |= not is_finished(folder)
            if waiting:
                # ESPnet's STFT reflects the ends, so clips must be long enough
                least = features.n_fft // 2 + 1
                rate, waves = features.sample_rate, exp / "data" / "wav"
                write_data(clips, split, seed, data, rate, waves, least)
        run_folders(functions, args.nj)
