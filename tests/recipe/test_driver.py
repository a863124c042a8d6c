"""The recipe driver egs/asr.sh: options, interruptions, and all stages end to end.

Each test works in a copy of ``egs`` whose path holds a space.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from tests.tiny_recipe import LM_CONFIG

ROOT = Path(__file__).resolve().parents[2]
SETS = ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test"]
MINI = ["--asr_config", "train_asr_mini.yaml"]

CONFIG = """\
encoder: conformer
encoder_conf:
    output_size: 16
    attention_heads: 2
    linear_units: 32
    num_blocks: 1
    input_layer: {input_layer}
    cnn_module_kernel: 7
decoder: transformer
decoder_conf: {{attention_heads: 2, linear_units: 32, num_blocks: 1}}
model_conf: {{ctc_weight: 0.5}}
frontend_conf: {{n_fft: 512, win_length: 400, hop_length: 160, n_mels: 20}}
batch_type: numel
batch_bins: 400000
num_workers: 0
num_att_plot: 0
max_epoch: 2
keep_nbest_models: 2
best_model_criterion: [[valid, cer_ctc, min]]
optim_conf: {{lr: 0.002}}
scheduler: piecewiselinearwarmuplr
scheduler_conf: {{warmup_steps_list: [0, 1], warmup_lr_list: [0.0, 0.001]}}
"""


@pytest.fixture
def recipe(clone):
    """A recipe's folder of its own, beside a copy of egs/asr.sh."""
    folder = clone / "egs" / "mine"
    (folder / "local").mkdir(parents=True)
    return folder


def run(folder, *options, script="../asr.sh", python=sys.executable, **settings):
    """Run a driver; return its status, standard output and standard error."""
    done = subprocess.run(
        ["bash", str(script), "--python", str(python), *map(str, options)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        **settings,
    )
    return done.returncode, done.stdout, done.stderr


def one_line(result):
    """Return the one line in which a driver failed."""
    status, _, errors = result
    assert status == 1
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    return lines[0]


# ------------------------------------------------------------------ options
@pytest.mark.parametrize(
    "options, words",
    [
        (["--stgae", "3"], "unknown option --stgae; did you mean --stage"),
        (["--asr-confg=x"], "unknown option --asr_confg; did you mean --asr_config"),
        (["--stage"], "option --stage needs a value"),
        (["here"], "'here' is not an option"),
        ([], "--train_set is required"),
        (["--stage stop_stage=3"], "unknown option --stage stop_stage"),
        ([*SETS[:-1], " "], "--test_sets is required"),
        ([*SETS, "--valid_set", "a b"], "--valid_set 'a b': give the name of one set"),
        ([*SETS, "--nj", "many"], "--nj many: give a whole number"),
        ([*SETS, "--inference_nj=0"], "--inference_nj 0: give at least 1"),
        (["--stride", "0.5"], "unknown option --stride; --help lists all"),
        ([*SETS, "--nbpe", "x"], "--nbpe x: give a whole number"),
        ([*SETS, "--nbpe", "0"], "--nbpe 0: give at least 1"),
        ([*SETS, "--stage", "9" * 20], "9: give a whole number"),
        ([*SETS, "--stage", "15"], "--stage 15: the last stage is 14"),
        ([*SETS, "--stage", "5", "--stop_stage", "3"], "no stage would run"),
        ([*SETS, "--dumpdir", "a,b"], "--dumpdir a,b: ESPnet separates with commas"),
        ([*SETS[:-1], "a,b"], "--test_sets a,b: ESPnet separates with commas; give"),
        ([*SETS, "--expdir", ""], "--expdir '': give a folder"),
        (
            [*SETS, *MINI, "--asr_tag", "x" * 250],
            "folder or file; give a shorter --asr",
        ),
        ([*SETS, "--batch_size", "0"], "--batch_size 0: give a whole number, at"),
        ([*SETS, "--lm_fold_length", "x"], "--lm_fold_length x: give a whole number"),
        ([*SETS, "--max_wav_duration", "x"], "--max_wav_duration x: give a number"),
        ([*SETS, "--min_wav_duration=30"], "30: give less than --max_wav_duration 20"),
        ([*SETS, "--dumpdir", "../asr.sh"], "asr.sh is not a folder; move it away"),
        ([*SETS, "--expdir", "../asr.sh/x"], "asr.sh is not a folder; move it away"),
        ([*SETS, *MINI, "--asr_args", "5"], "--asr_args: '5': options start with --"),
        ([*SETS, "--plan_seconds=-1"], "--plan_seconds -1: give a number, 0 or more"),
        ([*SETS, "--bpe_char_cover", "3"], "--bpe_char_cover 3: give a number above 0"),
        ([*SETS, "--speed_perturb_factors", "0.9 x"], "'0.9 x': give numbers, e.g."),
        (
            [*SETS, *MINI, "--fs", "x"],
            "--fs x: give a sampling rate from 100 to 1000000",
        ),
        ([*SETS, *MINI, "--g2p", "x"], "--g2p: g2p: 'x' must be one of"),
        ([*SETS, *MINI, "--pretrained_model=no.pth"], "no.pth: no such file"),
        ([*SETS, "--nlsyms_txt", "no.txt"], "--nlsyms_txt no.txt: no such file"),
        ([*SETS, "--asr_config", "5"], "--asr_config 5: no such file"),
        ([*SETS, "--rerun", "yes"], "--rerun yes: give true or false"),
        ([*SETS, "--token_type", "phn"], "--token_type 'phn': choose one of bpe char"),
        ([*SETS, "--token_type", "bpe char"], "--token_type 'bpe char': choose one"),
        ([*SETS, "--asr_config", "no.yaml"], "--asr_config no.yaml: no such file"),
        ([*SETS, "--python", "no-python"], "--python no-python: not found"),
        ([*SETS, "--python", " "], "--python  : not found"),
        ([*SETS, "--cuda_cmd", "slrm.pl --mem 4G"], "slrm.pl not found; ESPnet's"),
        (
            [*SETS, "--stop_stage", "1"],
            "data/train is missing (there: none): make it",
        ),
        (
            [*SETS, "--stop_stage", "1", "--local_data_opts", "--seed 1"],
            "--local_data_opts: there is no local/data.sh that would take them",
        ),
        (
            [*SETS, "--stop_stage", "1", "--download", "true"],
            "--download true: there is no local/data.sh that would download",
        ),
        ([*SETS, "--stage", "3", "--stop_stage", "3"], "run stage 1 first"),
        ([*SETS, "--stage", "4", "--stop_stage", "4"], "run stage 3 first"),
        ([*SETS], "--asr_config is missing: name a training"),
        ([*SETS, "--stage", "11"], "--asr_config is missing: name a training"),
        ([*SETS, *MINI, "--stage", "10"], "run stage 4 first"),
        (
            [*SETS, *MINI, "--asr_args", "--encoder_conf num_block=3"],
            "--asr_args: encoder_conf: unknown key 'num_block' (did you mean",
        ),
        (
            [*SETS, *MINI, "--asr_args", "--encoder_conf input_layer_conf.stride=0.5"],
            "--asr_args: encoder_conf.input_layer_conf: stride: 0.5 must be a number",
        ),
        (
            [*SETS, *MINI, "--inference_config", "decode_ctc_greedy.yaml"]
            + ["--inference_args", "--stride 0.5"],
            "--inference_args: stride: '0.5' must be a number from 1 to 1000000",
        ),
        (
            [*SETS, *MINI, "--inference_config", "decode_ctc_greedy.yaml"]
            + ["--inference_args", "--stride 1e30"],
            "--inference_args: stride: '1e30' must be a number from 1 to 1000000",
        ),
        (
            [*SETS, *MINI, "--asr_args", "--max_epoch=ten"],
            "--asr_args: max_epoch: 'ten' must be a whole number",
        ),
        (
            [*SETS, *MINI, "--inference_asr_model", "valid.loss.ave.pth"],
            "the training will not save it (best_model_criterion: valid.cer_ctc",
        ),
        (
            [*SETS, *MINI, "--inference_args", "--beam_szie 3"],
            "--inference_args: espnet2.bin.asr_inference has no option 'beam_szie'",
        ),
        (
            [*SETS, *MINI, "--use_lm", "true", "--lm_args", "--lm_conf untis=3"],
            "--lm_args: lm_conf: unknown key 'untis' (did you mean 'unit'?)",
        ),
        ([*SETS, "--stage", "12"], "run stage 11 first"),
        ([*SETS, "--stage", "13"], "run stage 11 first"),
        ([*SETS, "--stage", "14"], "run stage 11 first"),
        (
            [*SETS, *MINI, "--stage", "2", "--speed_perturb_factors", "0.9 1.0"],
            "data/train/wav.scp is missing: run stage 1 first",
        ),
        (
            [*SETS, "--stage", "12", "--speed_perturb_factors=0.9 1.0"],
            "exp/asr_train_raw_bpe30_sp/valid.acc.ave.pth is missing",
        ),
        ([*SETS, *MINI, "--use_lm", "true", "--stage", "6"], "run stage 5 first"),
        ([*SETS, "--lm_config", "no.yaml"], "--lm_config no.yaml: no such file"),
        (
            [*SETS, "--use_lm", "true", "--inference_tool", "ctc_greedy"],
            "greedy CTC cannot use a language model",
        ),
    ],
)
def test_a_wrong_option_ends_in_one_line(recipe, options, words):
    assert words in one_line(run(recipe, *options))
    assert not (recipe / "exp").exists()


@pytest.mark.parametrize(
    "option", "lm_train_text lm_dev_text lm_test_text bpe_train_text".split()
)
def test_text_files_are_checked_before_the_first_stage(recipe, option):
    (recipe / "my text").write_text(" \n")
    common = [*SETS, *MINI, "--use_lm=true", f"--{option}"]
    line = one_line(run(recipe, *common, "my text"))
    assert line == f"error: --{option} my text: the file is empty"
    line = one_line(run(recipe, *common, "none.txt"))
    assert line == f"error: --{option} none.txt: no such file"
    for name in ("data/none.txt", "./data/none.txt"):  # stage 1 may make it
        assert "make it from" in one_line(run(recipe, *common, name))


def test_a_value_that_cannot_work_is_named_before_the_first_stage(recipe):
    values = "--encoder_conf dropout_rate=1.5"
    done = run(recipe, *SETS, *MINI, "--asr_args", values)
    assert "encoder_conf: its values do not work (ValueError: dropout" in one_line(done)
    assert not (recipe / "data").exists() and not (recipe / "exp").exists()


@pytest.mark.parametrize("option", ["asr_config", "lm_config", "inference_config"])
def test_an_empty_configuration_is_refused(recipe, option):
    (recipe / "empty.yaml").write_text("# nothing\n")
    more = [] if option == "asr_config" else MINI
    options = [*SETS, *more, "--use_lm=true", f"--{option}", "empty.yaml"]
    line = one_line(run(recipe, *options))
    assert "empty.yaml: no options in it; fill it, or leave it out" in line


def test_the_home_folder_after_an_equals_sign(recipe):
    done = run(recipe, *SETS, *MINI, "--pretrained_model=~/none.pth")
    home = os.environ["HOME"]
    assert f"--pretrained_model {home}/none.pth: no such file" in one_line(done)


def test_the_python_is_taken_from_the_environment_too(recipe):
    done = subprocess.run(
        ["bash", "../asr.sh", *SETS],
        cwd=recipe,
        env={**os.environ, "PYTHON": "no-python"},
        capture_output=True,
        text=True,
    )
    assert one_line((done.returncode, done.stdout, done.stderr)) == (
        "error: --python no-python: not found"
    )


def test_help_lists_every_option_with_its_default(recipe):
    status, text, _ = run(recipe, "--help")
    assert status == 0
    assert re.search(r'--max_wav_duration +.*\(default: "20"\)', text)
    script = (ROOT / "egs" / "asr.sh").read_text()
    names = re.findall(r"^option (\w+) ", script, re.M)
    assert len(names) > 50
    for name in names:
        assert f"  --{name} " in text


def test_help_of_a_recipe_has_its_own_values_and_options(recipe, tmp_path):
    script = recipe.parent / "librispeech_100" / "run.sh"
    status, text, _ = run(tmp_path, "--help", script=script)
    assert status == 0 and '\n  --nbpe "5000"\n' in text
    script = recipe.parent / "mini_espeak" / "run.sh"
    status, text, _ = run(tmp_path, "--help", script=script)
    assert status == 0 and "  --say SENTENCE " in text and "  --use_lm " in text
    assert '\n  --token_type "char"\n' in text


def test_espnets_options_are_taken(recipe):
    """Every option that espnet's librispeech_100 and its users give is known."""
    words = """stage stop_stage ngpu num_nodes nj inference_nj gpu_inference dumpdir
    expdir python speed_perturb_factors min_wav_duration max_wav_duration token_type
    nbpe bpemode use_lm lm_config asr_config asr_args asr_tag asr_exp asr_stats_dir
    pretrained_model inference_config inference_args inference_tag inference_asr_model
    train_set valid_set test_sets lm_train_text bpe_train_text lang""".split()
    text = run(recipe, "--help")[1]
    assert [w for w in words if f"  --{w} " not in text] == []


def test_a_stage_that_comes_later_says_so_and_goes_on(recipe):
    arguments = ["--stage=9", "--stop_stage=9", "--use-ngram=true"]
    status, text, _ = run(recipe, *SETS, *arguments)
    assert status == 0 and "is not implemented" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("stage", [2, 7, 9, 11])
def test_a_call_without_work_says_so(recipe, stage):
    options = [*SETS, *MINI, f"--stage={stage}", f"--stop_stage={stage}"]
    status, text, errors = run(recipe, *options, "--skip_train=true")
    assert status == 0, errors
    assert "Nothing to do: stage 2 needs" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "place, stages, words",
    [
        ("exp", (1, 14), "another --expdir or --asr_"),
        ("dump", (1, 14), "another --dumpdir"),
        ("exp", (11, 13), "another --expdir or --asr_exp"),
        ("exp", (1, 5), ""),
        ("dump", (10, 14), ""),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_at_once(recipe, place, stages, words):
    command = ["bash"]
    if os.geteuid() == 0:  # root may write anywhere, unless it gives that up
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "bash"]
        if subprocess.call([*command, "-c", "! test -w /proc/1/x"], stderr=-3):
            pytest.skip("no setpriv, or not allowed")
    folder = recipe / place
    folder.mkdir()
    folder.chmod(0o555)
    options = ["--stage", str(stages[0]), "--stop_stage", str(stages[1]), "--ngpu=0"]
    done = subprocess.run(
        [*command, "../asr.sh", "--python", sys.executable, *SETS, *MINI, *options],
        cwd=recipe,
        capture_output=True,
        text=True,
    )
    line = one_line((done.returncode, done.stdout, done.stderr))
    if words:
        assert f"no permission to write in {place}" in line and words in line
        assert done.stdout == ""  # before any stage
    else:
        assert "permission" not in line
    folder.chmod(0o755)


def test_a_configuration_is_found_where_the_caller_stands(recipe, tmp_path):
    (tmp_path / "mine.yaml").write_text("- this is no mapping\n")
    environment = {**os.environ, "ADASTRIDE_CALLER_DIR": str(tmp_path)}
    options = [*SETS, "--stage", "11", "--asr_config", "mine.yaml"]
    line = one_line(run(recipe, *options, env=environment))
    assert f"{tmp_path}/mine.yaml: must hold 'option: value' lines" in line


def test_other_files_too_are_found_where_the_caller_stands(recipe, tmp_path):
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    (tmp_path / "texts").write_text("")
    environment = {**os.environ, "ADASTRIDE_CALLER_DIR": str(tmp_path)}
    options = [*SETS, *MINI, "--bpe_train_text", "texts"]
    line = one_line(run(recipe, *options, env=environment, python="bin/python"))
    assert line == f"error: --bpe_train_text {tmp_path}/texts: the file is empty"
    options = [*SETS, *MINI, "--stage", "10", "--pretrained_model", "texts:a:b"]
    line = one_line(run(recipe, *options, env=environment, python="bin/python"))
    assert "run stage 4 first" in line


def test_a_search_path_of_cd_changes_nothing(recipe):
    """With CDPATH, cd prints the folder, or goes to another of the same name."""
    (recipe / "egs").mkdir()
    environment = {**os.environ, "CDPATH": f".:{recipe}", "FSDD": "/none"}
    for script in ("egs/asr.sh", "egs/digits/run.sh"):
        options = [*SETS, "--stop_stage", "1"]
        line = one_line(
            run(recipe.parents[1], *options, script=script, env=environment)
        )
        assert "data/train is missing" in line or "/none does not exist" in line


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("mini_espeak", "--seed", "error: --seed needs a value (--local_data_opts)"),
        ("mini_espeak", "--train_minuts=5", "unknown option --train_minuts for local"),
        ("mini_espeak", "5", "error: 5 needs a value"),
        ("librispeech_100", "--nj", "error: --nj needs a value (--local_data_opts)"),
        ("librispeech_100", "--nj=2", "not in /none"),
        ("digits", "--rerun", "error: --rerun needs a value (--local_data_opts)"),
        ("digits", "--seed=2", "/none does not exist; give the folder"),
    ],
)
def test_options_of_the_data_scripts(recipe, name, options, words):
    environment = {**os.environ, "FSDD": "/none", "LIBRISPEECH": "/none"}
    more = ["--stop_stage=1", "--local_data_opts", options]
    script = recipe.parent / name / "run.sh"
    line = one_line(run(recipe, *more, script=script, env=environment))
    assert line.startswith("error: ") and words in line


def test_configurations_are_laid_over_each_other(recipe, tmp_path):
    (tmp_path / "mine.yaml").write_text("encoder_conf: {num_blocks: 3}\n")
    environment = {**os.environ, "ADASTRIDE_CALLER_DIR": str(tmp_path)}
    files = "train_asr_conformer.yaml adastride_8x.yaml mine.yaml"
    options = [*SETS, "--stage=11", "--asr_config", files]
    line = one_line(run(recipe, *options, env=environment))
    assert "run stage 4 first" in line
    name = "train_asr_conformer_adastride_8x_mine"
    merged = yaml.safe_load((recipe / "exp" / "conf" / f"{name}.yaml").read_text())
    layer = merged["encoder_conf"].pop("input_layer")
    assert layer == "adastride" and merged["encoder_conf"]["num_blocks"] == 3
    assert merged["encoder_conf"]["input_layer_conf"]["stride"] == 8
    assert merged["encoder_conf"]["output_size"] == 256
    line = one_line(run(recipe, *SETS, "--stage=14", "--asr_config", files))
    assert "mine.yaml: no such file" in line
    line = one_line(run(recipe, *options, "--stage=14", env=environment))
    assert f"exp/asr_{name}_raw_bpe30/valid.acc.ave.pth is missing" in line


def two_utterances(recipe):
    """Write two recordings of a second, and local/data.sh, which makes both sets."""
    for key in ("u1", "u2"):
        wave = 0.1 * np.random.default_rng(1).standard_normal(16000)
        soundfile.write(recipe / f"{key}.flac", wave, 16000)
    tables = "wav.scp", "text", "utt2spk"
    lines = ["for key in u1 u2; do echo $key $PWD/$key.flac; done"]
    lines += ["echo u1 A B; echo u2 A B C", "echo u1 s; echo u2 t"]
    script = "for name in train dev test; do mkdir -p data/$name\n"
    for name, line in zip(tables, lines):
        script += f"( {line} ) > data/$name/{name}\n"
    (recipe / "local" / "data.sh").write_text(script + "done\n")


def test_speed_perturbation_through_the_stages(recipe):
    """Copies reach the training set alone; sentences are counted once."""
    two_utterances(recipe)
    options = [*SETS, "--token_type=char", "--stop_stage=5", "--nj=2"]
    options.append("--speed_perturb_factors=0.9 1.0 1.1")
    status, text, errors = run(recipe, *options)
    assert status == 0, text + errors
    keys = (recipe / "dump/raw/train_sp/utt2num_samples").read_text().split()
    assert dict(zip(keys[::2], keys[1::2])) == {
        **{"u1": "16000", "u2": "16000", "sp0.9-u1": "17778", "sp0.9-u2": "17778"},
        **{"sp1.1-u1": "14546", "sp1.1-u2": "14546"},
    }
    speakers = (recipe / "dump/raw/train_sp/utt2spk").read_text()
    assert "sp1.1-u2 sp1.1-t\n" in speakers and "u1 s\n" in speakers
    assert not (recipe / "dump/raw/train").exists()
    assert len((recipe / "dump/raw/dev/text").read_text().splitlines()) == 2
    tokens = (recipe / "data/token_list/char/tokens.txt").read_text().split()
    assert sorted(tokens[2:-1]) == ["<space>", "A", "B", "C"]
    status, text, errors = run(recipe, *options)
    assert status == 0 and text.count("done and unchanged") == 7, text + errors


def test_data_made_with_other_options_is_refused(recipe):
    two_utterances(recipe)
    data = [*SETS, "--token_type=char", "--nj=2", "--speed_perturb_factors=0.9 1.0"]
    status, text, errors = run(recipe, *data, "--fs=8k", "--stop_stage=5")
    assert status == 0, text + errors
    exp = recipe / "exp" / "asr_x"
    exp.mkdir(parents=True)
    (exp / "valid.acc.ave.pth").write_text("")
    (exp / "config.yaml").write_text("frontend_conf: {fs: 16k}\n")
    for options, words in (
        (["--stage=4"], "dump/raw/org/train_sp was made with --fs 8000, not 16000"),
        (["--stage=10"], "give --fs '8000', or begin with --stage 3"),
        (["--stage=12"], "dump/raw/test was made with --fs 8000, not 16000"),
        (
            ["--stage=12", "--fs=8k"],
            "at 8000 Hz, but exp/asr_x was trained at 16000 Hz",
        ),
        (["--stage=10", "--fs=8k", "--max_wav_duration=0.9"], "20.0, not 0.9: give"),
        (["--stage=3", "--speed_perturb_factors=1.0"], "begin with --stage 2"),
    ):
        more = ["--inference_asr_model=valid.acc.ave.pth", "--asr_tag=x"]
        more += [] if options[0] == "--stage=12" else MINI
        assert words in one_line(run(recipe, *data, *more, *options))


DECODER = """\
import os, pathlib, sys
words = sys.argv[1:]
if words[:2] != ["-m", "espnet_adastride.bin.asr_inference_ctc"]:
    os.execv(sys.executable, [sys.executable, *words])  # with the open lock
values = dict(zip(words, words[1:]))
output = pathlib.Path(values["--output_dir"], "1best_recog")
output.mkdir(parents=True)
keys = pathlib.Path(values["--key_file"]).read_text().splitlines()
(output / "text").write_text("".join(key.split()[0] + " A\\n" for key in keys))
"""


def two_to_decode(recipe, folder):
    """Make two utterances and a trained experiment.

    Return the experiment, options that decode with it, and a stand-in for Python that
    decodes every utterance as A.
    """
    two_utterances(recipe)
    (folder / "decoder.py").write_text(DECODER)
    exp = recipe / "exp" / "asr_x"
    exp.mkdir(parents=True)
    (exp / "valid.acc.ave.pth").write_text("")
    (exp / "config.yaml").write_text("{}")
    options = [*SETS, "--token_type=char", "--nj=2", "--inference_nj=1"]
    options += ["--asr_tag=x", "--skip_train=true"]
    options += ["--inference_asr_model=valid.acc.ave.pth"]
    options += ["--inference_config=decode_ctc_greedy.yaml"]
    return exp, options, f"{sys.executable} {folder / 'decoder.py'}"


def test_audio_that_changed_in_place_is_decoded_again(recipe, tmp_path):
    _, options, stand_in = two_to_decode(recipe, tmp_path)
    options += ["--stop_stage=12"]

    def decode(*more):
        status, text, errors = run(recipe, *options, *more, python=stand_in)
        assert status == 0, text + errors
        return text.rpartition(" Stage 12: Decoding")[2]

    assert "decoding test in 1 jobs" in decode()
    assert "done and unchanged" in decode("--stage=12")
    # another recording of the same length, with the same name
    wave = 0.2 * np.random.default_rng(2).standard_normal(16000)
    soundfile.write(recipe / "u2.flac", wave, 16000)
    text = decode("--stage=3")
    assert "again: audio of dump/raw/test changed" in text
    assert "decoding test in 1 jobs" in text


TRAINER = """\
import os, pathlib, sys
words = sys.argv[1:]
if words[:2] != ["-m", "espnet_adastride.bin.run"]:
    os.execv(sys.executable, [sys.executable, *words])  # with the open lock
exp = pathlib.Path(dict(zip(words, words[1:]))["--output_dir"])
(exp / "config.yaml").write_text(" ".join(words))
(exp / "valid.acc.ave.pth").write_text("")
"""


def test_statistics_are_of_the_trainings_features_and_kept(recipe, tmp_path):
    """Stage 11 alone, with what stage 10 made for one frontend."""
    two_utterances(recipe)
    (tmp_path / "trainer.py").write_text(TRAINER)
    options = [*SETS, "--token_type=char", "--nj=2", "--ngpu=0"]
    status, text, errors = run(recipe, *options, "--stop_stage=5")
    assert status == 0, text + errors
    stats = recipe / "exp" / "asr_stats_raw_char"
    for name in ("train", "valid"):
        (stats / name).mkdir(parents=True)
        (stats / name / "speech_shape").write_text("u1 16000\nu2 16000\n")
        (stats / name / "text_shape.char").write_text("u1 3,7\nu2 5,7\n")
    (stats / "train" / "feats_stats.npz").write_bytes(b"of n_mels 20")
    made = {"configuration": str({"frontend_conf.n_mels": "20"})}
    (stats / ".stage_done").write_text(json.dumps({"work": {"option": made}}))
    options += ["--stage=11", "--stop_stage=11", "--plan=false"]
    python = f"{sys.executable} {tmp_path / 'trainer.py'}"

    def train(tag, n_mels):
        conf = f"--asr_args=--frontend_conf n_mels={n_mels}"
        return run(recipe, *options, f"--asr_tag={tag}", conf, python=python)

    assert "n_mels was 20, is 40; begin with --stage 10" in one_line(train("b", 40))
    status, text, errors = train("a", 20)
    assert status == 0, text + errors
    exp = recipe / "exp" / "asr_a"
    assert (exp / "feats_stats.npz").read_bytes() == b"of n_mels 20"
    words = (exp / "config.yaml").read_text()
    assert "stats_file=exp/asr_a/feats_stats.npz" in words


def test_a_failed_scoring_leaves_no_scores(recipe, tmp_path):
    exp, options, stand_in = two_to_decode(recipe, tmp_path)
    options += ["--stop_stage=13", "--inference_tag=mine"]

    def scores():
        found = [*exp.glob("RESULTS.md"), *exp.glob("mine/test/score_*/result.txt")]
        return sorted(file.relative_to(exp).parts[-1] for file in found)

    status, text, errors = run(recipe, *options, python=stand_in)
    assert status == 0, text + errors
    assert scores() == ["RESULTS.md", "result.txt", "result.txt"]
    references = recipe / "dump" / "raw" / "test" / "text"
    references.write_text(references.read_text() + "u9 A\n")
    line = one_line(run(recipe, *options, "--stage=13", python=stand_in))
    assert "1 of 3 references have no hypothesis: u9; decode them" in line
    assert "in a recipe: begin with --stage 3" in line
    assert scores() == []
    status, text, errors = run(recipe, *options, "--stage=3", python=stand_in)
    assert status == 0, text + errors
    assert scores() == ["RESULTS.md", "result.txt", "result.txt"]


def test_a_set_that_is_nowhere_is_named_with_those_there_are(recipe):
    def wrong(*options):
        return one_line(run(recipe, *SETS, *MINI, *options))

    assert "run stage 11 first" in wrong("--stage=13", "--test_sets=tset")
    for name in ("train", "dev", "test", "token_list"):
        (recipe / "data" / name).mkdir(parents=True)
    for name in ("train", "dev"):
        (recipe / "data" / name / "wav.scp").write_text("")
    for folder in (recipe / "dump/raw/test", recipe / "dump/raw/org/dev"):
        folder.mkdir(parents=True)
        (folder / ".stage_done").write_text("")
    for option, stage in (
        *(("test_sets", stage) for stage in (3, 10, 13)),
        *(("train_set", 4), ("valid_set", 11)),
    ):
        assert wrong(f"--stage={stage}", f"--{option}=tset") == (
            f"error: --{option} tset: no such set in {recipe}/data or dump; there: "
            "dev test train; name one of these, or make tset (stage 1)"
        )
    # what is not read is not asked for
    training = ["--stage=10", "--stop_stage=11", "--test_sets=tset"]
    assert "run stage 4 first" in wrong(*training)
    scoring = ["--stage=12", "--train_set=t", "--valid_set=d"]
    assert "run stage 11 first" in wrong(*scoring)


def test_an_experiment_that_is_nowhere_is_named_with_those_there_are(recipe):
    exp = recipe / "exp" / "asr_x"
    exp.mkdir(parents=True)
    (exp / "config.yaml").write_text("model_conf: {ctc_weight: 1.0}\n")
    (exp / "1epoch.pth").write_text("")
    options = [*SETS, "--inference_asr_model=best.pth"]
    for stage in (12, 13, 14):
        line = one_line(run(recipe, *options, "--asr_tag=y", f"--stage={stage}"))
        assert "exp/asr_y/best.pth is missing: run stage 11 first, or name" in line
        assert line.endswith("; there: exp/asr_x")
        assert not (recipe / "exp" / "asr_y").exists()
    line = one_line(run(recipe, *options, "--asr_tag=x", "--stage=14"))
    assert line.endswith("choose with --inference_asr_model one of: 1epoch.pth")
    line = one_line(run(recipe, *options, "--asr_tag=x", "--stage=13"))
    assert "run stage 12 first" in line and len(list(exp.iterdir())) == 2


# ------------------------------------------------------------------ interruptions
def gone(pid):
    """Fail if a process still runs; one that has ended may not be reaped yet."""
    for _ in range(100):
        file = Path(f"/proc/{pid}/cmdline")
        if not file.exists() or not file.read_bytes():
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} still runs")


def started(command, pid, **options):
    """Return the process of a script in a session of its own, once its child runs."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )
    deadline = time.monotonic() + 90
    while not pid.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("whom", ["driver", "terminal"])
def test_an_interruption_ends_the_children_and_says_how_to_go_on(recipe, whom):
    (recipe / "local" / "data.sh").write_text(
        "sleep 300 & echo $! > pid.new; mv pid.new pid; wait; wait\n"
    )
    command = ["bash", "../asr.sh", "--python", sys.executable, *SETS, *MINI]
    process = started(command, recipe / "pid", cwd=recipe)
    if whom == "driver":
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(re.findall("Interrupted in stage 1; nothing is lost", text)) == 1
    gone(int((recipe / "pid").read_text()))


@pytest.mark.parametrize("options", [[], ["--stop_stage=1"]])
def test_a_killed_demo_leaves_nothing_behind(recipe, options):
    """Its script calls asr.sh; `make demo` and kill know the script alone."""
    folder = recipe.parent / "mini_espeak"
    stand_in = folder / "python"
    stand_in.write_text(
        "#!/bin/bash\n"
        f"pid='{recipe}/pid'\n"
        'case "$*" in *bin.say*) exit ;; *make_espeak_corpus*) ;;\n'
        f'*) exec {sys.executable} "$@" ;; esac\n'
        'sleep 300 & echo $! >"${pid}.new"; mv "${pid}.new" "${pid}"; wait\n'
    )
    stand_in.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(stand_in)}
    command = ["bash", "run.sh", *options]
    process = started(command, recipe / "pid", cwd=folder, env=environment)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Interrupted in stage 1" in text
    gone(int((recipe / "pid").read_text()))


# ------------------------------------------------------------------ librispeech_100
def test_missing_corpus_and_missing_parts_end_in_one_line(recipe, tmp_path):
    script = recipe.parent / "librispeech_100" / "run.sh"
    environment = {**os.environ, "LIBRISPEECH": "no where"}  # from where we stand
    line = one_line(run(tmp_path, "--stop_stage=1", script=script, env=environment))
    assert f"not in {tmp_path}/no where, which does not exist; give" in line

    # a part without utterances is not there
    part = tmp_path / "corpora" / "LibriSpeech" / "train-clean-100"
    part.mkdir(parents=True)
    environment["LIBRISPEECH"] = str(tmp_path / "corpora")
    line = one_line(run(tmp_path, "--stop_stage=1", script=script, env=environment))
    assert "train-clean-100 dev-clean" in line and "contains: nothing of" in line
    (part / "1" / "2").mkdir(parents=True)
    (part / "1" / "2" / "1-2.trans.txt").write_text("1-2-0000 A\n")
    environment["LIBRISPEECH"] = str(part)
    line = one_line(run(tmp_path, "--stop_stage=1", script=script, env=environment))
    assert "which is itself a part of it (give its parent folder)" in line

    environment["LIBRISPEECH"] = str(tmp_path / "corpora")
    line = one_line(run(tmp_path, "--stop_stage=1", script=script, env=environment))
    assert "dev-clean dev-other test-clean test-other not in" in line
    assert "contains: train-clean-100;" in line and "--download true" in line


# ------------------------------------------------------------------ end to end
@pytest.mark.slow
@pytest.mark.e2e
def test_all_stages_on_a_handful_of_utterances(recipe, tmp_path, warm_python):
    pytest.importorskip("espeakng_loader")
    folder = recipe.parent / "mini_espeak"
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(input_layer="adastride"))
    minutes = "--train_minutes 0.5 --dev_minutes 0.1 --test_minutes 0.1"
    minutes += " --lm_sentences 200"
    options = ["--local_data_opts", minutes, "--asr_config", "tiny.yaml"]
    options += ["--nbpe=40", "--ngpu=0", "--nj=1", "--inference_nj=1"]
    # time for the plan to measure whole steps, on a busy machine too
    options += ["--token_type=bpe", "--plan_seconds=200"]
    greedy = ["--use_lm=false", "--inference_config=decode_ctc_greedy.yaml"]
    common = {"script": folder / "run.sh"}

    status, text, errors = run(tmp_path, *options, *greedy, **common)
    assert status == 0, text + errors
    exp = folder / "exp" / "asr_tiny_raw_en_bpe40"
    stats = folder / "exp" / "asr_stats_raw_en_bpe40"
    decoded = exp / "decode_ctc_greedy_asr_model_valid.cer_ctc.ave" / "test_mini"
    for path in (
        folder / "data" / "train_mini" / "wav.scp",
        folder / "dump" / "raw" / "org" / "train_mini" / "utt2num_samples",
        folder / "dump" / "raw" / "train_mini" / "text",
        folder / "data" / "en_token_list" / "bpe_unigram40" / "bpe.model",
        stats / "train" / "feats_stats.npz",
        exp / "config.yaml",
        exp / "valid.cer_ctc.ave.pth",
        exp / "RESULTS.md",
        decoded / "score_wer" / "result.txt",
    ):
        assert path.exists(), path
    shapes = (stats / "train" / "text_shape.bpe").read_text().splitlines()
    assert shapes and all(line.endswith(",40") for line in shapes)
    assert re.search(
        r"^epoch 2/2, loss train [\d.]+ valid [\d.]+.* loss_vp ", text, re.M
    )
    assert "real-time factor" in text
    schedule = yaml.safe_load((exp / "config.yaml").read_text())["scheduler_conf"]
    last = schedule["warmup_steps_list"][-1]
    assert last > 1 and f"ends at 1 updates, the training at {last};" in errors
    references = (folder / "dump" / "raw" / "test_mini" / "text").read_text()
    count, words = len(references.splitlines()), len(references.split())
    row = f"test_mini|{count}|{words - count}|"
    assert row in (exp / "RESULTS.md").read_text() and row in text

    page = (exp / "plan.md").read_text()
    assert page in text and "| utterances | " in page and "(measured)" in page
    utterances = len((folder / "dump/raw/train_mini/text").read_text().splitlines())
    assert f"| utterances | {utterances} | " in page and "- an epoch: about" in page

    # packed, unpacked elsewhere and decoded there: the same hypotheses
    archive = exp / f"{exp.name}_valid.cer_ctc.ave.zip"
    away = tmp_path / "far away"
    away.mkdir()
    command = [sys.executable, "-m", "espnet_adastride.bin.unpack_model"]
    unpacked = subprocess.run(
        [*command, archive, "model"], cwd=away, capture_output=True, text=True
    )
    assert unpacked.returncode == 0, unpacked.stderr
    card = (away / "model" / "README.md").read_text()
    assert card == (exp / "README.md").read_text()
    assert "license: cc-by-4.0" in card and row in card
    assert "import espnet_adastride.plugin" in card and "@inproceedings" in card
    options_file = dict(line[2:].split(" ", 1) for line in unpacked.stdout.splitlines())
    config = yaml.safe_load((away / options_file["asr_train_config"]).read_text())
    assert config["bpemodel"].startswith("model/")
    # the experiment's own copy, which a later stage 10 leaves alone
    assert (
        config["normalize_conf"]["stats_file"]
        == f"model/exp/{exp.name}/feats_stats.npz"
    )
    assert (exp / "feats_stats.npz").read_bytes() == (
        stats / "train" / "feats_stats.npz"
    ).read_bytes()
    subprocess.run(
        [warm_python, "-m", "espnet_adastride.bin.asr_inference_ctc"]
        + [word for k, v in options_file.items() for word in (f"--{k}", v)]
        + ["--data_path_and_name_and_type"]
        + [f"{folder}/dump/raw/test_mini/wav.scp,speech,sound"]
        + ["--output_dir", "decoded", "--num_workers", "0"],
        cwd=away,
        check=True,
        capture_output=True,
    )
    again = (away / "decoded" / "1best_recog" / "text").read_text().splitlines()
    before = (decoded / "text").read_text().splitlines()
    assert sorted(map(str.split, again)) == sorted(map(str.split, before))

    # once more: everything is found done; an experiment with other options is refused
    common["python"] = warm_python  # from here on ESPnet is not imported every time
    model = (exp / "valid.cer_ctc.ave.pth").resolve().stat().st_mtime_ns
    status, text, errors = run(tmp_path, *options, *greedy, **common)
    assert status == 0, text + errors
    for stage in (1, 3, 4, 5, 10, 11, 12, 13, 14):
        part = text.split(f" Stage {stage}: ", 1)[1].split(f" Stage {stage}: ", 1)[0]
        assert "done and unchanged" in part, part
    assert (exp / "valid.cer_ctc.ave.pth").resolve().stat().st_mtime_ns == model
    fold = ["--asr_speech_fold_length=400", "--stage", "11"]
    line = one_line(run(tmp_path, *options, *greedy, *fold, **common))
    assert "asr_speech_fold_length was not set, is 400" in line
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(input_layer="conv2d"))
    line = one_line(run(tmp_path, *options, *greedy, "--stage", "11", **common))
    assert "encoder_conf.input_layer was adastride, is conv2d" in line

    # a misspelt word ends in one line that names the file and the choices
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(input_layer="adastrid"))
    bad = ["--asr_tag", "bad", "--stage", "11", "--stop_stage", "11", "--plan=false"]
    line = one_line(run(tmp_path, *options, *greedy, *bad, **common))
    assert "tiny.yaml: encoder_conf: input_layer" in line and "'adastrid'" in line
    assert not (folder / "exp" / "asr_bad").exists()

    # the plan refuses what cannot work, naming utterances and the fix
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(input_layer="avg_pool"))
    small = ["--asr_tag", "small", "--stage", "11", "--asr_args", "--batch_bins 20000"]
    line = one_line(run(tmp_path, *options, *greedy, *small, **common))
    assert "exp/asr_small/plan.log" in line and "larger than a batch" in line
    assert "raise batch_bins" in line
    assert not (folder / "exp" / "asr_small" / "train.log").exists()

    # a language model: trained on what is spoken and further text, then decoded with
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(input_layer="adastride"))
    (tmp_path / "lm.yaml").write_text(LM_CONFIG)
    beam = "--inference_args=--beam_size 1 --maxlenratio 0.2"
    with_lm = ["--lm_config=lm.yaml", beam]
    line = one_line(run(tmp_path, *options, *with_lm, "--stage", "7", **common))
    assert "run stage 6 first" in line
    skip = ["--skip_data_prep=true", "--use_lm=true"]
    status, text, errors = run(tmp_path, *options, *with_lm, *skip, **common)
    assert status == 0, text + errors
    further = (folder / "data" / "local" / "other_text" / "text").read_text()
    spoken = (folder / "dump" / "raw" / "train_mini" / "text").read_text()
    trained_on = (folder / "dump" / "raw" / "lm_train.txt").read_text()
    assert trained_on.splitlines() == [*spoken.splitlines(), *further.splitlines()]
    assert not {line.split(None, 1)[1] for line in references.splitlines()} & {
        line.split(None, 1)[1] for line in trained_on.splitlines()
    }
    perplexity = float(re.search(r"perplexity of .*: (\d+\.\d{3}) per token", text)[1])
    assert 1 < perplexity < 40  # better than a guess among the 40 pieces
    name = "decode_asr_mini*_lm_lm_lm_en_bpe40_valid.loss.ave_asr_model_*"
    (with_model,) = exp.glob(f"{name}/test_mini/score_wer/result.txt")
    log = (with_model.parents[1] / "logdir" / "asr_inference.1.log").read_text()
    assert len(re.findall(r" \* 0\.4 = .* for lm\n", log)) == count  # in each score
    status, text, errors = run(tmp_path, *options, *with_lm, *skip, **common)
    assert status == 0, text + errors
    for stage in (6, 7, 8, 12):
        part = text.split(f" Stage {stage}: ", 1)[1].split(f" Stage {stage}: ", 1)[0]
        assert "done and unchanged" in part, part
