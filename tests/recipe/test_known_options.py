"""Mistyped configurations: what is refused is what ESPnet would refuse, much later."""

import copy
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import yaml

from espnet_adastride.bin import asr_inference_ctc, check_training
from espnet_adastride.config import merge_configs, override, read_config
from espnet_adastride.corpora.tokens import load_pieces
from espnet_adastride.errors import UserError
from espnet_adastride.recipe import configurations, espnet_source
from espnet_adastride.recipe.known_options import (
    refuse_unknown_decoding,
    refuse_unknown_options,
)

pytest.importorskip("espnet2")
CONF = Path(__file__).resolve().parents[2] / "conf"
#: every configuration of the recipes, with an overlay that fits it
WHOLE = {
    "conformer": ["train_asr_conformer.yaml", "adastride_8x.yaml"],
    "e_branchformer": ["train_asr_e_branchformer.yaml", "conv2d_8x.yaml"],
    "ctc": ["train_asr_ctc_e_branchformer.yaml", "adastride_f_4x.yaml"],
    "mini": ["train_asr_mini.yaml"],
    "small": ["train_asr_small.yaml", "speed_perturb.yaml"],
    "digits": ["train_digits.yaml"],
    "whisper": ["train_asr_whisper_small.yaml", "adastride_whisper_4x.yaml"],
    "scorer": ["train_asr_whisper_small.yaml", "adastride_cif_scorer.yaml"],
    "joint": ["train_asr_whisper_joint.yaml"],
}

#: ESPnet's options that must be 1 or more
COUNTS = ("max_epoch", "accum_grad", "batch_size", "batch_bins")


def whole(name):
    return merge_configs(read_config(CONF / file) for file in WHOLE[name])


def refused(config, task="asr"):
    with pytest.raises(UserError) as error:
        refuse_unknown_options(config, task, lambda path: "x.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def keys(config, path=()):
    """Yield the path of every key that a class or the command reads."""
    for key, value in config.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from keys(value, (*path, key))


def changed(config, path, value, key=None):
    """Return the configuration with another value, or another key, at a path."""
    config = copy.deepcopy(config)
    inner = config
    for one in path[:-1]:
        inner = inner.setdefault(one, {})
    if key is not None:
        value = inner.pop(path[-1])
    inner[key or path[-1]] = value
    return config


# ------------------------------------------------------------------ what is taken
@pytest.mark.parametrize("name", WHOLE)
def test_the_recipes_configurations_are_taken(name):
    refuse_unknown_options(whole(name), "asr", str)


def test_the_language_models_configuration_is_taken_and_checked():
    for name in ("train_lm_small.yaml", "train_lm_mini.yaml"):
        config = read_config(CONF / name)
        refuse_unknown_options(config, "lm", str)
    line = refused({**config, "lm": "transfomer"}, "lm")
    assert "lm: 'transfomer' must be one of" in line and "'transformer'?" in line
    line = refused({**config, "lm_conf": {"untis": 3}}, "lm")
    assert "lm_conf: unknown key 'untis'" in line


@pytest.mark.parametrize("name", WHOLE)
def test_any_mistyped_key_is_refused_and_the_right_one_named(name):
    config = whole(name)
    tried = 0
    for path in keys(config):
        wrong = path[-1][:-1] + "q"
        line = refused(changed(config, path, None, key=wrong))
        assert f"'{wrong}'" in line
        tried += 1
    assert tried > 30


# ------------------------------------------------------------------ what is read
def test_options_are_those_of_espnets_parsers():
    from espnet2.tasks.asr import ASRTask
    from espnet2.tasks.lm import LMTask

    for task, module in ((ASRTask, "asr"), (LMTask, "lm")):
        parser = task.get_parser()
        wanted = {action.dest: action for action in parser._actions}
        del wanted["help"]
        config = {name: None for name in wanted if name.endswith("_conf")}
        refuse_unknown_options(config, module, str)
        read = {
            **espnet_source.command_options("espnet2.tasks.abs_task"),
            **espnet_source.command_options(f"espnet2.tasks.{module}"),
        }
        choices = espnet_source.class_choices(f"espnet2.tasks.{module}")
        for name in choices:
            read[name] = read[f"{name}_conf"] = None
        assert set(read) == set(wanted) - {"config"}
        for name, action in wanted.items():
            option = read.get(name)
            if name in ("optim", "scheduler"):  # see the next test
                continue
            if action.choices is not None and option and option.words is not None:
                assert set(option.words) == set(action.choices), name
        words = {
            n: set(c.classes) | ({None} if c.optional else set())
            for n, c in choices.items()
        }
        # the plugin, if a test has imported it, adds its own
        ours = {"layer_sum"}
        assert words == {name: set(wanted[name].choices) - ours for name in words}


def test_constructors_are_those_of_the_classes():
    """All classes that an option of the task asr may name."""
    from espnet2.tasks import abs_task, asr

    compared = 0
    real = {c.name: c.classes for c in asr.ASRTask.class_choices_list}
    real["optim"], real["scheduler"] = (
        abs_task.optim_classes,
        abs_task.scheduler_classes,
    )
    read = {n: c.classes for n, c in espnet_source.class_choices(asr.__name__).items()}
    for name in ("optim", "scheduler"):
        read[name] = espnet_source.class_dictionary(
            abs_task.__name__, f"{name}_classes"
        )
        assert set(read[name]) == set(real[name])
    for option, classes in real.items():
        for word, kind in classes.items():
            if kind.__module__.startswith("espnet_adastride") or word == "layer_sum":
                continue  # in this process the plugin may be registered
            reference = espnet_source.find_class(*read[option][word])
            arguments = espnet_source.constructor(reference)
            wanted = inspect.signature(kind).parameters
            if any(p.kind is p.VAR_KEYWORD for p in wanted.values()):
                assert arguments is None, (option, word)
                continue
            wanted = [n for n, p in wanted.items() if p.kind is not p.VAR_POSITIONAL]
            assert list(arguments) == wanted, (option, word)
            compared += 1
    assert compared > 40


def test_methods_and_their_words_are_those_of_the_registry():
    from espnet_adastride.downsampling import registry

    read = espnet_source.registered("espnet_adastride.downsampling.registry")
    assert tuple(read) == registry.available_downsamplers()
    for name, place in read.items():
        words = espnet_source.constructor(espnet_source.find_class(*place))
        assert tuple(words)[2:] == registry.downsampler_options(name)


def test_input_layers_are_those_that_the_encoders_build():
    from espnet_adastride.plugin import encoders

    source = espnet_source.class_choices("espnet2.tasks.asr")["encoder"].classes
    for word in ("conformer", "e_branchformer", "transformer"):
        reference = espnet_source.find_class(*source[word])
        found = espnet_source.constructor(reference)["input_layer"].words
        assert set(encoders.ENCODERS[word].espnet_words) <= found | {None}
        assert len(found) > 5


# ------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    "path, value, words",
    [
        ("max_epoch", "seventy", "max_epoch: 'seventy' must be a whole number"),
        ("max_epoch", 7.5, "max_epoch: 7.5 must be a whole number"),
        ("accum_grad", 0, "accum_grad: 0 must be 1 or more"),
        *((word, "none", f"{word}: 'none' must be a whole number") for word in COUNTS),
        *((word, [8], f"{word}: [8] must be one value") for word in COUNTS),
        ("grad_clip", "none", "grad_clip: 'none' must be a number"),
        ("encoder", ["conformer"], "encoder: ['conformer'] must be one value"),
        ("model", ["espnet"], "model: ['espnet'] must be one value"),
        ("model", {"espnet": {}}, "model: {'espnet': {}} must be one value"),
        ("token_type", ["bpe"], "token_type: ['bpe'] must be one value"),
        ("use_amp", "maybe", "use_amp: 'maybe' must be true or false"),
        ("grad_clip", "five", "grad_clip: 'five' must be a number"),
        ("batch_type", "nummel", "(did you mean 'numel'?)"),
        ("encoder", "confomer", "(did you mean 'conformer'?)"),
        ("optim", "adamm", "(did you mean 'adam"),
        ("encoder_conf", "conformer", "encoder_conf: give options such as"),
        ("encoder_conf.num_blocks", "12x", "num_blocks: '12x' must be a whole number"),
        ("decoder_conf.num_blocks", 6.0, "num_blocks: 6.0 must be a whole number"),
        ("optim_conf.lr", "2e-3", "YAML reads 2e-3 as a string: write 0.002"),
        ("encoder_conf.input_layer", "adastrid", "(did you mean 'adastride'?)"),
        ("encoder_conf.input_layer", ["adastride"], "must be a word"),
        ("encoder_conf.input_layer_conf", "stride: 4", "must be options such as"),
        ("encoder_conf.input_layer_conf.method", [["cif"]], "unknown method ['cif']"),
        ("encoder_conf.rel_pos_type", "lates", "must be one of latest, legacy"),
        ("encoder_conf.input_layer_conf.stride", "8x", "must be a number or a list"),
        ("encoder_conf.input_layer_conf.stride", 1e30, "stride: 1e+30 must be at most"),
        ("encoder_conf.input_layer_conf.stride", 10**30, "stride: 10000"),
        ("encoder_conf.input_layer_conf.stride", [2, 1e7], "stride: 10000000.0 must"),
        ("encoder_conf.input_layer_conf.train_strides", [4, 1e30], "1e+30 must be at"),
        ("encoder_conf.input_layer_conf.trunk", "conv3d", "(did you mean 'conv2d'?)"),
        ("encoder_conf.input_layer_conf.method", "adastid", "'adastride'?"),
        ("encoder_conf.input_layer_conf.vp_weight", "1", "must be a number"),
        (
            "encoder_conf.input_layer_conf.score_bound",
            "tanh",
            "score_bound: 'tanh' must be a number or sigmoid",
        ),
        ("encoder_conf.input_layer_conf.score_bound", True, "must be a number or sig"),
        ("encoder_conf.input_layer_conf.filter_size", 3, "unknown key 'filter_size'"),
        ("ctc_conf.ctc_tpye", "builtin", "(did you mean 'ctc_type'?)"),
        ("preprocessor_conf.data_aug_prop", 0.3, "(did you mean 'data_aug_prob'?)"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(path, value, words):
    config = changed(whole("conformer"), path.split("."), value)
    line = refused(config)
    assert line.startswith("x.yaml: ") and words in line


@pytest.mark.parametrize("method", ["adastride", "adastride_f"])
@pytest.mark.parametrize("bound", [0.5, None, "sigmoid"])
def test_a_bound_is_a_number_or_a_word(method, bound):
    conf = {"method": method, "score_bound": bound}
    config = changed(whole("conformer"), ["encoder_conf", "input_layer_conf"], conf)
    refuse_unknown_options(config, "asr", None)


@pytest.mark.parametrize(
    "conf, stages",
    [
        ({"stride": 8, "method": ["cif", "adastride"]}, 3),
        ({"stride": 7.5, "method": ["cif", "adastride"]}, 1),
        ({"stride": [4, 2], "method": ["cif"]}, 2),
        ({"stride": 8, "after_blocks": [0, 0, 1, 2]}, 3),
        ({"stride": 8, "after_blocks": [0, 1], "method": ["cif"]}, 2),
        ({"stride": 8, "after_blocks": [0, 1], "method": ["cif", "adastride"]}, None),
        ({"stride": 6, "method": ["cif", "adastride"]}, None),
        ({"stride": [8], "method": ["adastride"]}, None),
    ],
)
def test_a_list_has_a_value_for_each_stage(conf, stages):
    """As for the layer itself, which a run makes only after hours of preparation."""
    from espnet_adastride.plugin.subsampling import AdaptiveSubsampling

    path = ["encoder_conf", "input_layer_conf"]
    config = changed(whole("conformer"), path, conf)
    if stages is None:
        refuse_unknown_options(config, "asr", None)
        AdaptiveSubsampling(80, 8, channels=8, **conf)
        return
    assert f"has {stages} stage" in refused(config)
    with pytest.raises(ValueError):
        AdaptiveSubsampling(80, 8, channels=8, **conf)


def test_options_of_another_input_layer_are_refused():
    config = changed(whole("conformer"), ["encoder_conf", "input_layer"], "conv2d")
    assert "input_layer is 'conv2d', which has no options" in refused(config)


def test_an_option_without_a_value_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(whole("mini")), encoding="utf-8")
    for word, wanted in (
        ("max_epoch", "must be one value"),
        ("best_model_criterion", "must have the form [valid, acc, max]"),
    ):
        with pytest.raises(UserError) as error:
            configurations.check_training([path], f"--{word}")
        assert f"--asr_args: {word}: [] {wanted}" in str(error.value)


def test_what_may_be_a_list_or_nothing():
    several = {
        "token_list": ["<blank>", "a"],
        "init_param": ["a.pth"],
        "patience": "none",
    }
    refuse_unknown_options({**whole("conformer"), **several}, "asr", None)
    conf = {"transducer_conf": {"search_type": "alsd"}, "beam_size": 3}
    refuse_unknown_decoding(conf, "espnet2.bin.asr_inference", None)
    with pytest.raises(UserError, match="d.yaml: beam_size: .3. must be one value"):
        conf["beam_size"] = [3]
        refuse_unknown_decoding(conf, "espnet2.bin.asr_inference", lambda _: "d.yaml")


def test_options_of_the_command_line_are_laid_over():
    words = "--max_epoch 3 --keep_nbest_models 2 5 --use_amp=true"
    words += " --encoder_conf input_layer_conf.stride=8 --optim_conf lr"
    config = {"encoder_conf": {"num_blocks": 2}, "max_epoch": 70}
    with pytest.raises(UserError, match="--optim_conf lr: give KEY=VALUE"):
        override(config, words.split())
    with pytest.raises(UserError, match=r"--optim_conf lr=\[1: not YAML"):
        override(config, f"{words}=[1".split())
    assert override(config, f"{words}=0.1".split()) == {
        "encoder_conf": {"num_blocks": 2, "input_layer_conf": {"stride": 8}},
        "max_epoch": "3",
        "keep_nbest_models": ["2", "5"],
        "use_amp": "true",
        "optim_conf": {"lr": 0.1},
    }
    assert config == {"encoder_conf": {"num_blocks": 2}, "max_epoch": 70}
    with pytest.raises(UserError, match="'3': options start with --"):
        override({}, ["3"])


def test_decoding():
    for kind in ("_joint", "_joint_lm", "", "_mini"):
        name = f"decode_asr{kind}.yaml"
        config = read_config(CONF / name)
        refuse_unknown_decoding(config, "espnet2.bin.asr_inference", str)
    with pytest.raises(UserError) as error:
        refuse_unknown_decoding(
            {**config, "beam_szie": 3}, "espnet2.bin.asr_inference", lambda _: "d.yaml"
        )
    assert "d.yaml: espnet2.bin.asr_inference has no option 'beam_szie'" in str(
        error.value
    )
    assert "did you mean 'beam_size'?" in str(error.value)
    with pytest.raises(UserError, match="beam_size: 'wide' must be a whole number"):
        refuse_unknown_decoding(
            {"beam_size": "wide"}, "espnet2.bin.asr_inference", lambda _: "d.yaml"
        )
    with pytest.raises(UserError, match="no option 'beam_size'"):
        refuse_unknown_decoding(
            {"beam_size": 3}, "espnet_adastride.bin.asr_inference_ctc", lambda _: "x"
        )


def test_options_of_greedy_decoding_are_those_of_its_parser():
    actions = asr_inference_ctc.get_parser()._actions
    names = {word[2:] for a in actions for word in a.option_strings if len(word) > 2}
    found = espnet_source.command_options("espnet_adastride.bin.asr_inference_ctc")
    assert set(found) == names - {"help", "version"}


# ------------------------------------------------------------------ the command
def check(*words):
    return subprocess.run(
        [sys.executable, "-m", "espnet_adastride.bin.check_training"]
        + ["--action", "check", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_names_the_file_and_imports_neither_torch_nor_espnet(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(yaml.safe_dump({"encoder_conf": {"num_block": 3}}))
    base = CONF / "train_asr_conformer.yaml"
    done = check("--config", base, overlay)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {overlay}: encoder_conf: unknown key")
    done = check("--config", base, "--arguments=--encoder_conf num_blok=3")
    assert done.stderr.startswith("error: --asr_args: encoder_conf: unknown key")
    done = check("--config", base)
    assert done.returncode == 0 and done.stdout == "valid.acc.ave.pth\n"
    code = "import sys\nfrom espnet_adastride.bin.check_training import main\n"
    code += f"main(['--action', 'check', '--config', {str(base)!r}])\n"
    code += "assert not {'torch', 'numpy', 'espnet2'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_beam_wider_than_the_vocabulary(tmp_path, capsys):
    """It is known as soon as the model is; ESPnet's search would end in a traceback."""
    search = "espnet2.bin.asr_inference"
    words = ["--action", "check", "--train", "false", "--exp", str(tmp_path)]
    words += ["--inference_command", search]
    trained = {"token_list": list("abcdef"), "decoder": "transformer"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained))
    line = "^error: --inference_args: beam_size is {} .* 6 tokens; give beam_size: 6 or"
    for given, beam in (("--beam_size 7", 7), ("--ctc_weight 0.5", 20)):
        with pytest.raises(SystemExit, match=line.format(beam)):
            check_training.main([*words, f"--inference_args={given}"])
    check_training.main([*words, "--inference_args=--beam_size 6"])
    for option, fix in (
        ("beam_size 0", "beam_size: '0': give a whole number, 1 or more"),
        ("ctc_weight 3", "ctc_weight: '3': give a number from 0 to 1"),
        ("lm_weight nan", "lm_weight: 'nan': give a number"),
    ):
        with pytest.raises(SystemExit, match=f"^error: --inference_args: {fix}"):
            check_training.main([*words, f"--inference_args=--{option}"])
    assert capsys.readouterr().out == "valid.acc.ave.pth\n"
    trained["decoder"] = "transducer"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained))
    check_training.main([*words, "--inference_args=--beam_size 7"])


def test_pieces_made_again_are_refused_before_espnets_search(tmp_path, capsys):
    text = "".join(f"{one} {two}\n" for one in "abcdef" for two in "abcdef")
    tokens = {}
    for name, letters in (("before", "abcdef"), ("after", "ghijkl")):
        (tmp_path / "text").write_text(text.translate(str.maketrans("abcdef", letters)))
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / "text"),
            model_prefix=str(tmp_path / name),
            vocab_size=12,
            minloglevel=2,
        )
        pieces = load_pieces(tmp_path / f"{name}.model")
        tokens[name] = [pieces.id_to_piece(i) for i in range(pieces.vocab_size())]
    words = ["--action", "check", "--train", "false", "--exp", str(tmp_path)]
    words += ["--inference_command", "espnet2.bin.asr_inference"]
    words += ["--inference_args=--beam_size 6"]
    trained = {"token_list": tokens["before"], "token_type": "bpe"}
    trained["bpemodel"] = str(tmp_path / "before.model")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained))
    check_training.main(words)
    trained["bpemodel"] = str(tmp_path / "after.model")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained))
    with pytest.raises(SystemExit, match="after.model is not that of the training: "):
        check_training.main(words)


def test_a_named_model_needs_no_criterion(tmp_path, capsys):
    trained = {
        "model_conf": {"ctc_weight": 1.0},  # reports no accuracy
        "best_model_criterion": [["valid", "acc", "max"]],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained))
    words = ["--action", "check", "--train", "false", "--exp", str(tmp_path)]
    check_training.main([*words, "--model", "latest.pth"])
    assert capsys.readouterr().out == "latest.pth\n"
    with pytest.raises(SystemExit, match="valid.acc is not reported"):
        check_training.main(words)
