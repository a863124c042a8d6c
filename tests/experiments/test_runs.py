"""A grid with records: with a recipe whose trainer takes no time.

A run is done if its record is there, whatever became of the trained model.
"""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from espnet_adastride.bin import experiment, results
from espnet_adastride.experiments import definition, records, runs
from espnet_adastride.experiments.records import read_records

# Recognises everything, but avg_pool takes ONE for TWO, and the language model
# expects no ONE at the end.
RUN = r"""#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
while [ $# -gt 0 ]; do printf -v "opt_${1#--}" %s "$2"; shift 2; done
dump=${opt_dumpdir}/extracted
if [ "${opt_stage}" = 1 ]; then
    echo "prepare nbpe=${opt_nbpe} valid=${opt_valid_set}${opt_lm_config+ lm}" >>calls
    for name in train test org/dev; do
        mkdir -p "${dump}/${name}"
        printf 's1-1 ONE TWO\ns1-2 TWO ONE\ns2-1 TWO TWO\n' >"${dump}/${name}/text"
        printf 's1-1 s1\ns1-2 s1\ns2-1 s2\n' >"${dump}/${name}/utt2spk"
        printf 's1-1 16000\ns1-2 32000\ns2-1 8000\n' >"${dump}/${name}/utt2num_samples"
    done
    exit
fi
echo "${opt_asr_tag}${opt_use_lm+ lm}" >>calls
if [ "${opt_stage}" = 12 ] && [ -e no_lm ]; then
    echo "error: exp/lm_x/valid.loss.ave.pth is missing: run stage 7 first"; exit 1
fi
if [ -e fails ]; then echo "error: the disk is full"; exit 1; fi
exp=${opt_expdir}/asr_${opt_asr_tag}
mkdir -p "${exp}"
echo "max_epoch: 12" >"${exp}/config.yaml"
for name in ${opt_test_sets}; do
    out=${exp}/${opt_inference_tag}/${name}
    mkdir -p "${out}"
    text=${dump}/${name}/text
    [ "${name}" != dev ] || text=${dump}/org/${name}/text
    case ${opt_asr_args} in
        *input_layer=avg_pool*) sed s/ONE/TWO/ "${text}" >"${out}/text" ;;
        *) cp "${text}" "${out}/text" ;;
    esac
    [ -z "${opt_use_lm-}" ] || sed -i 's/ ONE$//' "${out}/text"
    case ${opt_inference_config-ctc} in
        *ctc*) printf 's1-1 9 2\ns1-2 9 3\ns2-1 6 3\n' >"${out}/frames" ;;
    esac
done
echo "[x] 2026-01-01 00:00:00,1 (t) INFO: 12epoch results: [train] loss=1.0," \
    "stride=7.25, time=50 seconds, [valid] loss=1.0, stride=7.25, time=10 seconds" \
    >"${exp}/train.log"
"""
CONTENT = {
    "title": "A comparison",
    "recipe": "egs/mine",
    "script": "run_mine.sh",
    "asr_config": "train.yaml",
    "test_sets": ["test", "dev"],
    "options": {"nbpe": 7},
    "feats_type": "extracted",
    "feature_rate": 50,
    "grid": [
        {"methods": ["strided_conv", "avg_pool"], "rates": [8], "seeds": [0, 1]},
    ],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository's root with a recipe, a configuration and a definition."""
    monkeypatch.setattr(definition, "ROOT", tmp_path)
    figures = {"macs_per_second": 1e6, "unalignable": {"test": [1, 3]}}
    monkeypatch.setattr(
        runs.Grid, "_measure", lambda self, run: json.loads(json.dumps(figures))
    )
    (tmp_path / "egs" / "mine").mkdir(parents=True)
    (tmp_path / "egs" / "mine" / "run_mine.sh").write_text(RUN)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("encoder: conformer\nmax_epoch: 12\n")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CONTENT))
    return tmp_path


def run(folder, *more):
    words = ["--records", folder / "records", "--results", folder / "results"]
    words += ["--dumpdir", folder / "dump", "--expdir", folder / "exp", *more]
    experiment.main([str(folder / "mine.yaml"), *map(str, words)])


def calls(folder):
    path = folder / "egs" / "mine" / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_the_grid_leaves_records_and_a_page(folder, capsys):
    run(folder)
    first, *tags = calls(folder)
    assert first == "prepare nbpe=7 valid=dev" and len(tags) == 4
    shown = capsys.readouterr().out
    assert "avg_pool 8x seed 0: WER test 33.33, dev 33.33" in shown
    found = read_records(folder / "records" / "mine")
    assert [r.key for r in found] == [
        ("avg_pool", 8.0, 0),
        ("avg_pool", 8.0, 1),
        ("strided_conv", 8.0, 0),
        ("strided_conv", 8.0, 1),
    ]
    scores = found[0].sets["test"]
    assert scores.words["substitutions"] == [1, 1, 0]
    assert scores.seconds == [1.0, 2.0, 0.5] and scores.emitting == [2, 3, 3]
    assert found[0].content["learning"]["valid"]["stride"] == [7.25]
    assert found[0].content["timing"] == {"training_seconds": 60.0, "epochs": 1}
    assert found[0].content["configuration"] == {"max_epoch": 12}
    page = (folder / "results" / "mine.md").read_text()
    assert "+33.33" in page and (folder / "results" / "mine.png").is_file()
    assert "Bars: 95 % intervals of each WER by itself" in page


def decode_in_three_ways(folder, **more):
    """Let every model be decoded with and without a language model, and by CTC."""
    for name in ("lm", "beam", "decode_ctc_greedy"):
        (folder / "conf" / f"{name}.yaml").write_text("batch_size: 1\n")
    beam = {"inference_config": "beam.yaml"}
    decodings = {"joint": beam, "joint_lm": {**beam, "use_lm": True}}
    decodings["ctc"] = {"inference_config": "decode_ctc_greedy.yaml"}
    content = {**CONTENT, "decodings": decodings, "lm_config": "lm.yaml", **more}
    text = yaml.safe_dump(content, sort_keys=False)  # in this order
    (folder / "mine.yaml").write_text(text)


def test_every_decoding_of_a_model_is_scored(folder, capsys):
    decode_in_three_ways(folder)
    run(folder, "--limit", "2")
    first, *tags = calls(folder)
    assert first == "prepare nbpe=7 valid=dev lm"  # once, with the language model
    assert [tag.rpartition("_")[2] for tag in tags] == [
        "seed0",
        "seed0 lm",
        "seed0",
    ] * 2
    assert "2 of 4 runs; missing: strided_conv 8x seed 1" in capsys.readouterr().out
    pool, conv = read_records(folder / "records" / "mine")
    keys = [f"{d}/{n}" for d in ("ctc", "joint", "joint_lm") for n in ("dev", "test")]
    assert sorted(conv.sets) == keys

    def errors(record):
        ours = {k: s for k, s in record.sets.items() if k.endswith("/test")}
        return {k[:-5]: s.errors().tolist() for k, s in ours.items()}

    # ONE TWO, TWO ONE, TWO TWO; the language model drops the ONE at the end
    assert errors(conv) == {"ctc": [0] * 3, "joint": [0] * 3, "joint_lm": [0, 1, 0]}
    assert errors(pool) == dict.fromkeys(("ctc", "joint", "joint_lm"), [1, 1, 0])
    assert conv.sets["joint_lm/test"].words["deletions"] == [0, 1, 0]
    # greedy CTC alone counts frames
    assert not conv.sets["joint/test"].frames
    assert conv.sets["ctc/test"].frames == [9, 9, 6]
    page = (folder / "results" / "mine.md").read_text()
    (table,) = (x for x in page.split("## ") if x.startswith("Decodings, test"))
    assert (
        "| rate | method | seeds | joint, WER % | joint_lm, WER % | ctc, WER % |"
        in (" ".join(table.split()))
    )
    (row,) = (x for x in table.splitlines() if "`strided_conv`" in x)
    assert row.startswith("| 8x, 6.25 Hz | `strided_conv` | 1 | 0.00 | 16.67 (+16.67 [")
    for name in ("joint", "joint_lm", "ctc"):
        assert f"## Errors on test, `{name}`" in page
    assert "| 33.3 |" in page.split("## Frames and cost")[1]  # 8 of 24 frames emit
    assert "`conf/beam.yaml`, `conf/lm.yaml`" in page
    assert "Decoder and language model are left out" in page


def test_other_decodings_are_of_the_same_models(folder, capsys):
    decode_in_three_ways(folder)
    run(folder, "--limit", "1")
    _, *before = calls(folder)
    (folder / "conf" / "beam.yaml").write_text("batch_size: 2\n")
    run(folder, "--limit", "1")
    _, *after = calls(folder)
    assert after == before  # the same folders, where the recipe finds the models
    assert "0 of 4 runs have their records" in capsys.readouterr().out


def test_a_configuration_that_changes_during_a_run_leaves_no_record(folder):
    """Which settings the run had is unknown."""
    decode_in_three_ways(folder)
    script = folder / "egs" / "mine" / "run_mine.sh"
    text = script.read_text()
    change = 'echo "batch_size: 3" >../../conf/beam.yaml\n'
    script.write_text(
        text.replace('echo "${opt_asr_tag}', change + 'echo "${opt_asr_tag}')
    )
    with pytest.raises(SystemExit, match="has changed since this command started"):
        run(folder, "--limit", "1")
    assert not list((folder / "records").rglob("*.gz"))
    run(folder, "--limit", "1")  # it changes no more
    assert len(list((folder / "records").rglob("*.gz"))) == 1


def test_a_missing_language_model_is_one_line(folder, capsys):
    decode_in_three_ways(folder)
    (folder / "egs" / "mine" / "no_lm").touch()
    with pytest.raises(SystemExit) as error:
        run(folder, "--limit", "1")
    line = str(error.value)
    assert "1 run failed; the first: strided_conv 8x seed 0" in line
    assert line.endswith("valid.loss.ave.pth is missing: run stage 7 first")
    assert "\n" not in line and not list((folder / "records").rglob("*.gz"))


def test_data_of_a_decoding_are_compared_with_the_records(folder):
    decode_in_three_ways(folder)
    run(folder, "--limit", "1")
    script = folder / "egs" / "mine" / "run_mine.sh"
    script.write_text(script.read_text().replace("s2-1 8000", "s2-1 8100"))
    with pytest.raises(
        SystemExit, match="error: dev here is not what .* was tested on"
    ):
        run(folder, "--limit", "1")


def test_on_another_machine_it_resumes_from_the_records(folder, capsys):
    run(folder, "--limit", "1")
    assert len(calls(folder)) == 2
    assert "1 of 4 runs; missing: avg_pool 8x seed 0" in capsys.readouterr().out
    # nothing but the records reaches the other machine
    shutil.rmtree(folder / "exp")
    shutil.rmtree(folder / "dump")
    run(folder)
    _, *tags = calls(folder)
    assert len(tags) == 3 and not tags[0].endswith("strided_conv_8x_seed0")
    shown = capsys.readouterr().out
    assert "1 of 4 runs have their records" in shown and "4 of 4 runs" in shown
    run(folder)
    assert not calls(folder)
    assert "4 of 4 runs have their records" in capsys.readouterr().out


def test_durations_follow_the_rate_of_the_recordings(folder):
    """A recipe may set fs itself, as egs/digits does."""
    wave = folder / "one.wav"
    soundfile.write(wave, np.zeros(8000, np.float32), 8000)
    data = folder / "data"
    data.mkdir()
    (data / "utt2num_samples").write_text("u1 8000\nu2 4000\n")
    (data / "wav.scp").write_text(f"u1 {wave}\nu2 {wave}\n")
    what = definition.read_experiment(folder / "mine.yaml")
    grid = runs.Grid(what, folder / "records")
    assert grid._seconds(data) == {"u1": 1.0, "u2": 0.5}
    (data / "wav.scp").write_text(f"u1 cat {wave} |\nu2 {wave}\n")
    assert grid._seconds(data) == {"u1": 0.5, "u2": 0.25}  # a command: 16 kHz


def test_other_settings_run_again(folder, capsys):
    run(folder)
    calls(folder)
    (folder / "conf" / "train.yaml").write_text("encoder: conformer\nmax_epoch: 13\n")
    run(folder, "--limit", "1")
    assert len(calls(folder)) == 2
    assert "3 records do not belong to it" in capsys.readouterr().out


def test_a_variant_with_other_words_runs_again(folder):
    def define(words):
        grid = [{"methods": ["strided_conv", "mine"], "rates": [8], "seeds": [0]}]
        content = {**CONTENT, "grid": grid, "variants": [f"mine=adastride {words}"]}
        (folder / "mine.yaml").write_text(yaml.safe_dump(content))

    define("score_bound=2")
    run(folder)
    assert len(calls(folder)) == 3
    run(folder)
    assert not calls(folder)
    define("score_bound=3")
    run(folder)
    _, *tags = calls(folder)
    assert len(tags) == 1 and "_mine_8x" in tags[0]


def test_a_failed_run_stops_no_other_and_leaves_no_record(folder, capsys):
    (folder / "egs" / "mine" / "fails").touch()
    with pytest.raises(SystemExit, match="4 runs failed; the first: strided_conv 8x"):
        run(folder)
    assert len(calls(folder)) == 5
    assert not list((folder / "records").rglob("*.gz"))


@pytest.mark.parametrize(
    "words, line",
    [
        (
            "score_bond=2",
            "mine 8x: --asr_args: encoder_conf.input_layer_conf: unknown ",
        ),
        ("method=[cif,adastride]", "stride 8 has 3 stages: give one for each"),
        ("--max_epochs 3", "mine 8x: --asr_args: ESPnet's training has no option"),
    ],
)
def test_a_variant_that_cannot_be_trained_is_refused_first(folder, words, line):
    pytest.importorskip("espnet2")
    grid = [{"methods": ["strided_conv", "mine"], "rates": [8], "seeds": [0]}]
    content = {**CONTENT, "variants": [f"mine=adastride {words}"], "grid": grid}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as error:
        run(folder)
    assert line in str(error.value) and "\n" not in str(error.value)
    assert not calls(folder)


def test_other_data_are_refused(folder):
    run(folder, "--limit", "1")
    script = folder / "egs" / "mine" / "run_mine.sh"
    script.write_text(script.read_text().replace("s2-1 8000", "s2-1 8100"))
    calls(folder)
    with pytest.raises(SystemExit, match="is not what .* was tested on"):
        run(folder, "--limit", "1")
    assert len(calls(folder)) == 1  # prepared, and nothing trained


def test_data_of_every_record_are_compared(folder):
    run(folder, "--limit", "2")
    first, second = sorted((folder / "records").rglob("*.gz"))
    content = json.loads(gzip.decompress(first.read_bytes()))
    del content["sets"]["dev"]  # of before there was this set
    records.write_record(first, content)
    content = json.loads(gzip.decompress(second.read_bytes()))
    content["sets"]["dev"]["data_sha256"] = "other"
    records.write_record(second, content)
    message = f"dev here is not what .*{second.name} was tested on"
    with pytest.raises(SystemExit, match=message):
        run(folder)


def test_results_need_the_records_alone(folder, monkeypatch, capsys):
    run(folder, "--limit", "3")
    page = (folder / "results" / "mine.md").read_text()
    for name in ("exp", "dump", "results"):
        shutil.rmtree(folder / name)
    places = ["--records", str(folder / "records")]
    places += ["--results", str(folder / "results")]
    results.main([str(folder / "mine.yaml"), *places])
    assert "missing: avg_pool 8x seed 1" in capsys.readouterr().out
    assert (folder / "results" / "mine.md").read_text() == page
    monkeypatch.setattr(results, "DEFINITIONS", Path(folder / "nothing"))
    with pytest.raises(SystemExit, match="no experiment definition"):
        results.main(places)


def test_results_do_without_espnet():
    code = (
        "import sys, espnet_adastride.bin.results, espnet_adastride.bin.experiment\n"
        "import espnet_adastride.experiments.tables\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('espnet', 'espnet2')]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_wrong_folder_of_records_leaves_the_page(folder, capsys):
    run(folder)
    page = folder / "results" / "mine.md"
    before = page.read_text()
    words = ["--records", folder / "elsewhere", "--results", folder / "results"]
    results.main([str(folder / "mine.yaml"), *map(str, words)])
    assert "not written, there is no record in" in capsys.readouterr().out
    assert page.read_text() == before


def test_a_record_of_another_task_is_named(folder):
    run(folder)
    path = next((folder / "records" / "mine").glob("*.gz"))
    content = json.loads(gzip.decompress(path.read_bytes()))
    records.write_record(path, {**content, "task": "classification"})
    with pytest.raises(SystemExit, match=f"{path.name}: a record of the task class"):
        words = ["--records", folder / "records", "--results", folder / "results"]
        results.main([str(folder / "mine.yaml"), *map(str, words)])
