"""The command lines of ESPnet's own asr.sh, through ``--python``.

    ./asr.sh --python "python3 -m espnet_adastride.bin.run" ...

Stages 10 (statistics in two jobs, joined), 11 (training by espnet2.bin.launch), 12
(decoding) and 14 (packing), and asr_align: as asr.sh writes them, ${python} and its
other variables filled in; run_jobs takes the place of run.pl.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espnet_adastride.bin import make_token_list
from espnet_adastride.corpora import datadir
from espnet_adastride.networks.unpacking import unpack
from tests.tiny_recipe import CONFIG, write_corpus

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "python3 -m espnet_adastride.bin.run"
CUDA_CMD = f"{sys.executable} -m espnet_adastride.bin.run_jobs"
BPE = "data/token_list/bpe_unigram9"
STATS = "exp/asr_stats_raw_bpe9"
EXP = "exp/asr_train_raw_bpe9"

PREPROCESSOR = f"""--use_preprocessor true --bpemodel "{BPE}/bpe.model" \\
    --token_type "bpe" --token_list "{BPE}/tokens.txt" \\
    --non_linguistic_symbols "none" --cleaner "none" --g2p "none" """

COLLECT = f"""{PYTHON} -m espnet2.bin.asr_train --collect_stats true {PREPROCESSOR} \\
    --train_data_path_and_name_and_type "dump/raw/train/wav.scp,speech,sound" \\
    --train_data_path_and_name_and_type "dump/raw/train/text,text,text" \\
    --valid_data_path_and_name_and_type "dump/raw/dev/wav.scp,speech,sound" \\
    --valid_data_path_and_name_and_type "dump/raw/dev/text,text,text" \\
    --train_shape_file "{STATS}/logdir/train.JOB.scp" \\
    --valid_shape_file "{STATS}/logdir/valid.JOB.scp" \\
    --output_dir "{STATS}/logdir/stats.JOB" \\
    --config train.yaml --frontend_conf fs=16k """

AGGREGATE = f"""{PYTHON} -m espnet2.bin.aggregate_stats_dirs \\
    --input_dir {STATS}/logdir/stats.1 --input_dir {STATS}/logdir/stats.2  \\
    --output_dir "{STATS}" """

TRAIN = f"""{PYTHON} -m espnet2.bin.launch \\
    --cmd "{CUDA_CMD} --name {EXP}/train.log" --log "{EXP}"/train.log \\
    --ngpu "0" --num_nodes "1" --init_file_prefix "{EXP}"/.dist_init_ \\
    --multiprocessing_distributed true -- \\
    {PYTHON} -m espnet2.bin.asr_train {PREPROCESSOR} \\
    --valid_data_path_and_name_and_type "dump/raw/dev/wav.scp,speech,sound" \\
    --valid_data_path_and_name_and_type "dump/raw/dev/text,text,text" \\
    --valid_shape_file "{STATS}/valid/speech_shape" \\
    --valid_shape_file "{STATS}/valid/text_shape.bpe" \\
    --resume true --init_param  --ignore_init_mismatch false \\
    --fold_length "80000" --fold_length "150" --output_dir "{EXP}" \\
    --config train.yaml --frontend_conf fs=16k \\
    --normalize=global_mvn --normalize_conf stats_file={STATS}/train/feats_stats.npz \\
    --train_data_path_and_name_and_type dump/raw/train/wav.scp,speech,sound \\
    --train_data_path_and_name_and_type dump/raw/train/text,text,text \\
    --train_shape_file {STATS}/train/speech_shape \\
    --train_shape_file {STATS}/train/text_shape.bpe """

DECODE = f"""{PYTHON} -m espnet2.bin.asr_inference --batch_size 1 --ngpu "0" \\
    --data_path_and_name_and_type "dump/raw/dev/wav.scp,speech,sound" \\
    --key_file "{EXP}/inference/dev/logdir"/keys.1.scp \\
    --asr_train_config "{EXP}"/config.yaml \\
    --asr_model_file "{EXP}"/"valid.acc.ave.pth" \\
    --output_dir "{EXP}/inference/dev/logdir"/output.1 --beam_size 2 --ctc_weight 0.3"""

PACK = f"""{PYTHON} -m espnet2.bin.pack asr --asr_train_config "{EXP}"/config.yaml \\
    --asr_model_file "{EXP}"/"valid.acc.ave.pth" \\
    --option {STATS}/train/feats_stats.npz --option {BPE}/bpe.model  \\
    --option "{EXP}"/RESULTS.md --option "{EXP}"/RESULTS.md --option "{EXP}"/images \\
    --outpath "{EXP}/model.zip" """

ALIGN = f"""{PYTHON} -m espnet2.bin.asr_align --asr_train_config {EXP}/config.yaml \\
    --asr_model_file {EXP}/valid.acc.ave.pth --fs 16000 --kaldi_style_text true \\
    --audio "{{audio}}" --text {{text}} --output aligned"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A stock recipe's folder with what its stages 1-5 leave."""
    folder = tmp_path_factory.mktemp("asr1")
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    for name in ("train", "dev"):
        (chapter,) = corpus.glob(f"{name}-x/*/1")
        (lines,) = chapter.glob("*.txt")
        text = datadir.read_table(lines)
        waves = {key: f"{chapter}/{key}.flac" for key in text}
        dump = folder / "dump" / "raw" / name
        datadir.write_table(dump / "wav.scp", waves)
        datadir.write_table(dump / "text", text)
    (folder / "train.yaml").write_text(CONFIG.replace("max_epoch: 3", "max_epoch: 2"))
    options = ["--text", f"{folder}/dump/raw/train/text", "--nbpe", "9"]
    make_token_list.main([*options, "--output", f"{folder}/{BPE}"])
    return folder


@pytest.fixture(scope="module")
def shell(recipe, warm_python):
    """Run a command line; ``python3`` there is one that has imported ESPnet."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{warm_python.parent}:{os.environ['PATH']}"

    def run(line):
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd=recipe,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def split(recipe, scp, pattern, jobs):
    """Do what utils/split_scp.pl does."""
    table = datadir.read_table(recipe / scp)
    for job, keys in enumerate(datadir.split_keys(sorted(table), jobs), 1):
        datadir.write_table(recipe / pattern.replace("JOB", str(job)), table, keys)


@pytest.fixture(scope="module")
def statistics(recipe, shell):
    for name, set_name in (("train", "train"), ("valid", "dev")):
        split(
            recipe, f"dump/raw/{set_name}/wav.scp", f"{STATS}/logdir/{name}.JOB.scp", 2
        )
    for job in "12":
        shell(COLLECT.replace("JOB", job))
    shell(AGGREGATE)
    tokens = len((recipe / BPE / "tokens.txt").read_text().splitlines())
    for name in ("train", "valid"):
        shape = recipe / STATS / name / "text_shape"
        lines = [f"{line},{tokens}\n" for line in shape.read_text().splitlines()]
        shape.with_name("text_shape.bpe").write_text("".join(lines))
    return recipe / STATS


@pytest.fixture(scope="module")
def trained(recipe, statistics, shell):
    shell(TRAIN)
    return recipe / EXP


def test_statistics(recipe, statistics):
    waves = datadir.read_table(recipe / "dump/raw/train/wav.scp")
    shapes = datadir.read_table(statistics / "train" / "speech_shape")
    assert shapes.keys() == waves.keys()
    assert sorted(shapes.values()) == sorted(str(8000 + 800 * i) for i in range(12))
    assert np.load(statistics / "train" / "feats_stats.npz")["count"] > 12 * 50


def test_training(trained):
    log = (trained / "train.log").read_text()
    assert re.search(r" 2epoch results: \[train\] .*loss_vp=", log)
    assert "AdaStrideASRModel" in log and "AdaptiveSubsampling" in log
    assert (trained / "valid.acc.ave.pth").exists()


def test_decoding(recipe, trained, shell):
    split(recipe, "dump/raw/dev/wav.scp", f"{EXP}/inference/dev/logdir/keys.JOB.scp", 1)
    shell(DECODE)
    output = trained / "inference" / "dev" / "logdir" / "output.1" / "1best_recog"
    keys = datadir.read_table(recipe / "dump/raw/dev/wav.scp").keys()
    assert datadir.read_table(output / "text").keys() == keys


def test_packing(trained, shell, tmp_path):
    (trained / "RESULTS.md").write_text("# RESULTS\n")
    (trained / "images").mkdir(exist_ok=True)
    shell(PACK)
    files = unpack(trained / "model.zip", tmp_path / "model")
    assert set(files) == {"asr_train_config", "asr_model_file"}
    assert (tmp_path / "model" / BPE / "bpe.model").exists()


def test_alignment(recipe, trained, shell):
    key, audio = sorted(datadir.read_table(recipe / "dump/raw/dev/wav.scp").items())[-1]
    (recipe / "one").write_text(f"{key}_0 A\n{key}_1 B\n")
    audio = re.sub(r'(["$`\\])', r"\\\1", audio)
    shell(ALIGN.format(audio=audio, text="one"))
    lines = [line.split() for line in (recipe / "aligned").read_text().splitlines()]
    assert [line[0] for line in lines] == [f"{key}_0", f"{key}_1"]
    assert 0 <= float(lines[0][2]) <= float(lines[1][3])


def test_a_mistake_is_one_line(recipe, warm_python):
    """Without a traceback, and it names the choices."""
    (recipe / "bad.yaml").write_text(CONFIG.replace(": adastride", ": adastrid"))
    line = COLLECT.replace("train.yaml", "bad.yaml").replace("JOB", "1")
    done = subprocess.run(
        ["bash", "-c", line.replace("python3", str(warm_python), 1)],
        cwd=recipe,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(
        r"^error: .*'adastrid'.*'adastride'.*adastride_f", done.stderr, re.M
    )
