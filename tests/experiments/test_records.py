"""Records of runs, and the tables made of them: known answers, worked out by hand."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from espnet_adastride.errors import UserError
from espnet_adastride.experiments import tables
from espnet_adastride.experiments.cells import Cell
from espnet_adastride.experiments.definition import Experiment
from espnet_adastride.experiments.records import (
    Record,
    kept_configuration,
    make_content,
    matching_records,
    read_record,
    read_records,
    record_path,
    score_set,
    speaker_of,
    split_records,
    write_record,
)
from espnet_adastride.experiments.runs import Grid
from espnet_adastride.report.style import COLOURS, MARKERS
from tests.wrong_records import refusal

GREEDY = "decode_ctc_greedy.yaml"

REFERENCE = {
    "1-9-0": "A B C D",  # 4 words in 4 s: slow
    "1-9-1": "A B C D",
    "2-9-0": "A B C D",  # in 2 s
    "2-9-1": "A B C D",
    "3-9-0": "A B C D",  # in 1 s: fast
    "3-9-1": "A B C D",
}
SECONDS = dict(zip(REFERENCE, (4.0, 4.0, 2.0, 2.0, 1.0, 1.0)))
GROUPS = {key: key.rpartition("-")[0] for key in REFERENCE}  # speaker and chapter
#: one substitution in each; and two deletions and an insertion in the fast ones
WORSE = {
    **{key: "A B C X" for key in REFERENCE},
    "3-9-0": "A X",
    "3-9-1": "A B C X D E",
}


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    monkeypatch.setattr(
        Experiment, "config_path", property(lambda self: tmp_path / "train.yaml")
    )
    (tmp_path / "train.yaml").write_text("max_epoch: 3\n")
    return Experiment(
        name="mine",
        title="A comparison",
        recipe="egs/mine",
        asr_config="train.yaml",
        grid=[
            {"methods": ["strided_conv", "adastride"], "rates": [8, 4], "seeds": [0, 1]}
        ],
        test_sets=["test"],
        feature_rate=50,
    )


def content_of(experiment, run, hypotheses, macs=1e6, **more):
    frames = {key: (10, 4) for key in REFERENCE}
    scores = score_set(REFERENCE, hypotheses, GROUPS, SECONDS, frames)
    return make_content(
        experiment,
        run,
        {"test": scores},
        configuration={"max_epoch": 3},
        upstream=None,
        commit="abc",
        learning={"valid": {"stride": [8.0, 7.5]}, "train": {"loss": [3.0, 2.0]}},
        measured={
            "macs_per_second": macs,
            "layer_macs_per_second": macs / 4,
            "parameters": 2500000,
            "seconds_per_second": 0.004,
            "unalignable": {"train": [1, 50], "test": [3, 6]},
        },
        timing={"training_seconds": 120.0, "epochs": 3},
        **more,
    )


def write_all(experiment, folder):
    """Write the records of all runs; AdaStride is right, strided_conv is WORSE."""
    for run in experiment.runs():
        right = run.system == "adastride"
        content = content_of(
            experiment, run, REFERENCE if right else WORSE, macs=8e6 / run.rate
        )
        write_record(record_path(folder, run), content)
    return read_records(folder)


def page_of(experiment, records, resamples):
    """Return the page made of some records, whatever settings they have."""
    fit, others = split_records(experiment, records)
    return tables.write_page(experiment, fit, others, resamples)


def plot_of(experiment, records, **more):
    return tables.plot_page(experiment, split_records(experiment, records)[0], **more)


def table_of(page, heading):
    """Return the cells of a section's table, without its first two lines."""
    lines = page.split(f"## {heading}")[1].split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in lines[2:]]


# ---------------------------------------------------------------- one record
def test_errors_by_hand():
    scores = score_set(REFERENCE, WORSE, GROUPS, SECONDS)
    assert scores.groups == ["1", "1", "2", "2", "3", "3"]
    # "A X" against "A B C D": one substitution and two deletions, or the like
    assert scores.errors().tolist() == [1, 1, 1, 1, 3, 2]
    assert sum(scores.words["reference"]) == 24
    assert scores.words["insertions"] == [0, 0, 0, 0, 0, 2]
    assert scores.words["deletions"][4] == 2
    assert scores.characters["reference"] == [7] * 6
    assert scores.frames == []


@pytest.mark.parametrize(
    "utterance, given, speaker",
    [
        ("84-121123-0001", "84-121123", "84"),
        ("jackson-07-0003", "jackson-07", "jackson-07"),  # egs/digits: groups of takes
        ("u-1", "spk2", "spk2"),
        ("u", "u", "u"),
    ],
)
def test_speakers(utterance, given, speaker):
    assert speaker_of(utterance, given) == speaker


def test_a_record_survives(experiment, tmp_path):
    run = experiment.runs()[0]
    content = content_of(experiment, run, WORSE)
    path = record_path(tmp_path, run)
    write_record(path, content)
    first = path.read_bytes()
    record = read_record(path)
    assert record.key == ("strided_conv", 8.0, 0)
    assert record.content == json.loads(json.dumps(content))
    assert record.sets["test"].errors().sum() == 9
    assert record.content["versions"]["python"] and "machine" in record.content
    write_record(path, content)  # no time stamp in it
    assert path.read_bytes() == first


def test_the_hash_of_the_data_is_of_all_that_was_tested_on():
    def hashed(texts=REFERENCE, seconds=SECONDS):
        return score_set(texts, WORSE, GROUPS, seconds).data_sha256

    assert hashed(dict(reversed(REFERENCE.items()))) == hashed()
    assert hashed({**REFERENCE, "2-9-0": "A B C E"}) != hashed()
    assert hashed(seconds={**SECONDS, "2-9-0": 2.001}) != hashed()
    assert hashed(seconds={**SECONDS, "2-9-0": 2.0001}) == hashed()


def test_records_are_small(experiment, tmp_path):
    """2,620 utterances, as test-clean has, take tens of kilobytes."""
    draw = np.random.default_rng(0)
    names = [f"{s}-{c}-{u:04d}" for s in range(40) for c in (1, 2) for u in range(33)]
    reference = {n: " ".join(draw.choice(list("abcdefgh"), 20)) for n in names[:2620]}
    heard = {n: " ".join(draw.choice(list("abcdefgh"), 20)) for n in reference}
    seconds = {n: float(draw.uniform(2, 30)) for n in reference}
    frames = {n: draw.integers(10, 99, 2) for n in reference}
    groups = dict.fromkeys(reference, "x")
    scores = score_set(reference, heard, groups, seconds, frames)
    run = experiment.runs()[0]
    path = record_path(tmp_path, run)
    write_record(path, make_content(experiment, run, {"test": scores}, learning={}))
    assert path.stat().st_size < 60000


def test_what_is_kept_of_a_configuration():
    options = {
        "seed": 3,
        "output_dir": "/home/me/exp",
        "train_data_path_and_name_and_type": [["/home/me/feats.scp", "speech", "x"]],
        "normalize_conf": {"stats_file": "/home/me/stats.npz", "norm_vars": True},
        "empty": None,
        "dist_rank": 0,
    }
    kept = {"seed": 3, "normalize_conf": {"norm_vars": True}}
    assert kept_configuration(options) == kept


def test_damage_is_named(tmp_path, experiment):
    path = tmp_path / "adastride_8x_seed0.json.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="adastride_8x_seed0.* cannot be read"):
        read_record(path)
    content = content_of(experiment, experiment.runs()[0], WORSE)
    path.write_bytes(gzip.compress(json.dumps({**content, "format": 2}).encode()))
    with pytest.raises(UserError, match="format 2 is not supported .expected 1"):
        read_record(path)


@pytest.mark.parametrize("part", ["configuration", "settings", "measured"])
def test_a_part_of_a_record_that_is_no_mapping_is_named(tmp_path, experiment, part):
    path = tmp_path / "adastride_8x_seed0.json.gz"
    content = content_of(experiment, experiment.runs()[0], WORSE)
    write_record(path, {**content, part: None})
    with pytest.raises(UserError, match=f"adastride_8x.*{part} is not a mapping"):
        read_record(path)


@pytest.mark.parametrize("part", ["learning", "versions", "settings", "fingerprint"])
def test_a_record_without_a_part_is_named(tmp_path, experiment, part):
    path = tmp_path / "adastride_8x_seed0.json.gz"
    content = content_of(experiment, experiment.runs()[0], WORSE)
    del content[part]
    write_record(path, content)
    with pytest.raises(UserError, match=f"adastride_8x.*{part} is missing"):
        read_record(path)


@pytest.mark.parametrize(
    "place, value, words",
    [
        ("system", ["x"], "system is not a word"),
        ("commit", {"x": 1}, "commit is not a word"),
        ("machine", 7, "machine is not a word"),
        ("seed", 1.5, "seed is not a whole number"),
        ("seed", "0", "seed is not a whole number"),
        ("seed", float("inf"), "cannot convert float infinity"),
        ("rate", float("nan"), "rate is not a finite number"),
        ("learning train", "x", "no attribute 'items'"),
        ("learning train", {"loss": ["x"]}, "learning.train.loss is not a list of num"),
        ("system", [], "system is not a word"),
        ("timing", {}, "timing.training_seconds is missing"),
        ("timing epochs", None, "timing.epochs is not a number"),
        ("timing training_seconds", "x", "training_seconds is not a number"),
        ("measured parameters", "x", "measured.parameters is not a number"),
        ("measured macs_per_second", [1], "macs_per_second is not a number"),
        ("measured seconds_per_second", {}, "seconds_per_second is not a number"),
        ("measured unalignable", 5, "measured.unalignable is not a mapping"),
        ("measured unalignable test", 3, "unalignable.test is not a list of numbers"),
        ("measured unalignable test", [3], "unalignable.test is not two numbers"),
        ("settings data", [1], "settings.data is not a mapping"),
        ("settings data", {"test": "abc"}, "settings.data.train is missing"),
        ("upstream", "whisper", "upstream is not a mapping"),
        ("upstream", {"upstream": "whisper"}, "upstream.model is not a word"),
        ("sets test words", {}, "'reference'"),
        ("sets test words deletions", [0], "words.deletions has 1 values for"),
        ("sets test characters reference", "x", "characters.reference is not a list"),
        ("sets test seconds", [None], "sets.test.seconds is not a list of numbers"),
        ("sets test groups", "x", "sets.test.groups is not a list of words"),
        ("sets test frames", [1], "sets.test.frames has 1 values for"),
    ],
)
def test_a_record_with_a_wrong_value_is_named(
    tmp_path, experiment, place, value, words
):
    """Before a table computes with it."""
    path = tmp_path / "adastride_8x_seed0.json.gz"
    content = content_of(experiment, experiment.runs()[0], WORSE)
    write_record(path, content)
    content = json.loads(gzip.decompress(path.read_bytes()))
    read_record(path)
    line = refusal(path, content, place, value, read_record)
    assert words in line
    assert "take it from git again, or remove it and run again" in line


def test_hidden_files_are_no_records(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    (tmp_path / "._adastride_8x_seed0.json.gz").write_bytes(b"of macOS")
    assert len(read_records(tmp_path)) == len(found)


def test_two_records_of_a_run_are_refused(experiment, tmp_path):
    write_all(experiment, tmp_path)
    path = tmp_path / "adastride_8x_seed0.json.gz"
    (tmp_path / "adastride_8x_seed0 (1).json.gz").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"seed0 \(1\).* are records of the same run"):
        page_of(experiment, read_records(tmp_path), 100)


def test_settings_are_read_once(experiment, tmp_path, monkeypatch):
    found, read = write_all(experiment, tmp_path), []
    once = Experiment.fingerprint
    monkeypatch.setattr(
        Experiment, "fingerprint", lambda self: read.append(1) or once(self)
    )
    fit, _ = split_records(experiment, found)
    assert len(fit) == 8 and len(read) == 1


def test_records_of_other_settings_do_not_fit(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    fit, others = split_records(experiment, found)
    assert len(fit) == 8 and not others
    fit, others = split_records(replace(experiment, asr_args="--seed 3"), found)
    assert not fit and len(others) == 8


# ---------------------------------------------------------------- the page
def test_the_page_by_hand(experiment, tmp_path):
    page = page_of(experiment, write_all(experiment, tmp_path), 200)
    rows = [line for line in page.splitlines() if line.startswith("| 8x, 6.25 Hz")]
    # a row of each table for each of two methods
    errors, _, terciles, costs = (r for r in rows if "`strided_conv`" in r)
    # 9 errors of 24 words: 5 substitutions, 2 deletions, 2 insertions
    assert "| 2 | 37.50 |" in errors and "| 20.83 | 8.33 | 8.33 |" in errors
    # slow and middle: 2 of 8 words; fast: 5 of 8
    assert "| 25.00 | 25.00 | 62.50 |" in terciles
    assert "| 40.0 | 2.0 | 50.0 | 2.50 | 1.00 | 0.25 | 4.00 |" in costs
    # against strided_conv at twice the frames, which is as bad there
    table = page.split("## Against more frames")[1].split("\n\n")[1].splitlines()
    assert table[0].endswith("| method | minus `strided_conv` at 12.5 Hz |")
    same, better = table[2:]  # none of the rows at 12.5 Hz
    assert same.startswith("| 8x, 6.25 Hz | `strided_conv` | +0.00 [")
    assert better.startswith("| 8x, 6.25 Hz | `adastride` | -37.50 [")
    assert better.endswith("], p 0.500; seeds 0, 1: [-37.50, -37.50] |")
    assert "for the 2 comparisons" in page.split("## Against more frames")[1]
    assert "-37.50" in page and "better" in page and "3 speakers" in page
    assert "Not run yet" not in page


def test_pairs_have_a_table(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    assert "Method against method" not in page_of(experiment, found, 200)
    asked = replace(experiment, pairs=[["strided_conv", "adastride"]])
    page = page_of(asked, found, 200)
    table = page.split("## Method against method")[1].split("##")[0]
    # 9 errors of 24 words against none, both seeds alike; three speakers: 2 / 2^3
    row = "| 8x | `strided_conv` minus `adastride` | 0, 1 | +37.50 | ["
    (line,) = (x for x in table.splitlines() if x.startswith(row))
    assert line.endswith("| 0.500 | [+37.50, +37.50] | no difference shown |")
    assert "| 4x | `strided_conv` minus `adastride` | 0, 1 | +37.50 | [" in table
    assert "for the 2 comparisons" in table


def test_a_decoding_that_no_run_has_yet(experiment, tmp_path):
    kinds = {name: {"inference_config": GREEDY} for name in ("beam", "beam_lm")}
    asked = replace(experiment, decodings=kinds)
    run = asked.runs()[0]
    content = content_of(asked, run, WORSE)
    content["sets"] = {"beam/test": content["sets"].pop("test")}
    write_record(record_path(tmp_path, run), content)
    page = page_of(asked, read_records(tmp_path), 100)
    assert "## Errors on test, `beam`\n" in page and "| 37.50 |" in page
    assert "`beam_lm`\n" not in page


def decoded_twice(experiment, hypotheses, missing):
    """Return an experiment of two decodings alike, and its records.

    Args:
        hypotheses: of each seed.
        missing: set that the last seed of strided_conv does not have.
    """
    kinds = {name: {"inference_config": GREEDY} for name in ("greedy", "beam")}
    asked, records = replace(experiment, decodings=kinds), []
    for run in asked.runs():
        content = content_of(asked, run, hypotheses[run.seed])
        scores = content["sets"].pop("test")
        content["sets"] = {name: scores for name in ("greedy/test", "beam/test")}
        if run.system == "strided_conv" and run.seed == 1:
            del content["sets"][missing]
        records.append(Record(content, f"{run.key}"))
    return asked, records


def test_decodings_are_compared_over_the_seeds_decoded_in_both(experiment):
    asked, records = decoded_twice(experiment, [REFERENCE, WORSE], "beam/test")
    page = page_of(asked, records, 100)
    same = "+0.00 [+0.00, +0.00]"
    assert f"| 4x, 12.5 Hz | `strided_conv` | 1 | 0.00 | 0.00 ({same}) |" in page
    assert f"| 4x, 12.5 Hz | `adastride` | 2 | 18.75 | 18.75 ({same}) |" in page


def test_other_data_of_any_decoding_are_refused(experiment):
    asked, records = decoded_twice(experiment, [REFERENCE, WORSE], "greedy/test")
    for record in records:
        if "greedy/test" not in record.sets:
            changed = replace(record.sets["beam/test"], data_sha256="0")
            record.sets["beam/test"] = changed
    with pytest.raises(UserError, match="tested on different data .beam/test"):
        page_of(asked, records, 100)


def test_differences_by_speed_are_of_the_seeds_of_both(experiment):
    records = []
    for run in experiment.runs():
        if run.system != "adastride" or run.seed == 0:
            heard = REFERENCE if run.system == "adastride" or run.seed == 0 else WORSE
            records.append(Record(content_of(experiment, run, heard), f"{run.key}"))
    page = page_of(experiment, records, 100)
    table = page.split("## WER by speaking rate")[1].split("##")[0]
    (row,) = (r for r in table.splitlines() if r.startswith("| 8x, 6.25 Hz | `adas"))
    assert row.count(" 0.00 (+0.00 ") == 3  # seed 1 of strided_conv is worse
    assert "| 8x, 6.25 Hz | `strided_conv` | 12.50 | 12.50 | 31.25 |" in table


def test_more_frames_are_compared_over_the_seeds_of_both(experiment):
    """A seed that only one side has must not make a difference."""
    records = [
        Record(content_of(experiment, run, WORSE if run.seed else REFERENCE))
        for run in experiment.runs()
        if run.rate == 4 or run.seed == (run.system == "adastride")
    ]
    page = page_of(experiment, records, 100)
    strided, adaptive = table_of(page, "Against more frames")
    # seed 0: no error at either rate; seed 1: 9 of 24 words at either
    assert strided[2] == "+0.00 [+0.00, +0.00], p 1.000; seed 0"
    assert adaptive[2] == "+0.00 [+0.00, +0.00], p 1.000; seed 1"
    without = [r for r in records if r.key != ("strided_conv", 4.0, 0)]
    (only,) = table_of(page_of(experiment, without, 100), "Against more frames")
    assert only == adaptive  # strided_conv has no common seed


def test_methods_are_compared_at_equal_compute(experiment):
    """adastride at 8x is at a quarter of the way from strided_conv's 8x to its 4x."""
    macs = {("strided_conv", 8): 2e6, ("strided_conv", 4): 6e6, ("adastride", 8): 3e6}
    heard = {("strided_conv", 4): REFERENCE, ("adastride", 8): REFERENCE}
    records = [
        Record(content_of(experiment, run, heard.get(place, WORSE), macs.get(place, 0)))
        for run in experiment.runs()
        for place in [(run.system, run.rate)]
        if run.key != ("strided_conv", 4.0, 1)
    ]
    for record in records:  # not measured
        if record.key[:2] == ("adastride", 4.0):
            del record.content["measured"]["macs_per_second"]
    page = page_of(experiment, records, 100)
    (row,) = table_of(page, "At equal compute")
    assert row[:5] == ["8x, 6.25 Hz", "`adastride`", "3.00", "6.25 Hz and 12.5 Hz", "0"]
    # 3/4 of 9 errors of 24 words; of the speakers 2, 2 and 5 of 8
    assert row[5:8] == ["0.00", "28.12", "-28.12"]
    assert row[8] == "[-46.88, -18.75]" and row[9] == ""
    assert "this line is an upper bound" in page.split("## At equal compute")[1]
    few = [r for r in records if r.key[:2] != ("strided_conv", 4.0)]
    assert "At equal compute" not in page_of(experiment, few, 100)


def test_utterances_of_one_speed_leave_terciles_empty(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    for record in found:
        record.sets["test"] = replace(record.sets["test"], seconds=[2.0] * 6)
    page = page_of(experiment, found, 100)
    assert "| 4x, 12.5 Hz | `strided_conv` |  |  | 37.50 |" in page
    assert "nan" not in page


def test_missing_runs_are_named(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    page = page_of(experiment, found[1:], 100)
    assert "Not run yet, 1 of 8: adastride 4x seed 0." in page
    assert page_of(experiment, [], 100).endswith("No run is finished yet.\n")


def test_other_settings_are_named(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    content = {**found[0].content, "fingerprint": "0"}
    page = page_of(experiment, [Record(content), *found[1:]], 100)
    assert "Records of other settings, left out: adastride 4x seed 0." in page
    assert "outside the grid" not in page


def test_records_outside_the_grid_are_named(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    content = {**found[0].content, "seed": 7}
    page = page_of(experiment, [*found, Record(content)], 100)
    assert "Records outside the grid, left out: adastride 4x seed 7." in page
    assert "of other settings" not in page and "Not run yet" not in page


def test_other_data_are_refused(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    content = json.loads(json.dumps(found[0].content))
    content["sets"]["test"]["data_sha256"] = "0"
    with pytest.raises(UserError, match="tested on different data"):
        page_of(experiment, [Record(content, "x"), *found[1:]], 100)


def test_other_groups_are_refused(experiment, tmp_path):
    """They are what is resampled, and the hash of the data does not have them."""
    found = write_all(experiment, tmp_path)
    content = json.loads(json.dumps(found[0].content))
    content["sets"]["test"]["groups"] = ["1", "1", "2", "2", "2", "2"]
    with pytest.raises(UserError, match=r"test in different groups \(utt2spk\)"):
        page_of(experiment, [Record(content, "x"), *found[1:]], 100)


@pytest.mark.parametrize("place", ["utterances", "words", "characters"])
def test_other_positions_are_refused(experiment, tmp_path, place):
    """Everything paired goes by position, and the stored hash may be the same."""
    found = write_all(experiment, tmp_path)
    content = json.loads(json.dumps(found[0].content))
    values = content["sets"]["test"][place]
    values = values if place == "utterances" else values["reference"]
    values[:2] = [values[1], "1-9-0"] if place == "utterances" else [3, 5]
    with pytest.raises(UserError, match="of test in another order, or count their wo"):
        page_of(experiment, [Record(content, "x"), *found[1:]], 100)


def test_variants_of_the_page_are_explained(experiment, tmp_path):
    variants = ["wide=adastride score_bound=2", "other=adastride score_bound=3"]
    part = {"methods": ["wide", "other"], "rates": [8], "seeds": [0]}
    asked = replace(experiment, variants=variants, grid=[*experiment.grid, part])
    found = write_all(asked, tmp_path)
    found = [record for record in found if record.system != "other"]
    page = page_of(asked, found, 100)
    assert "\n- `wide`: `adastride score_bound=2`\n" in page
    assert "- `other`" not in page  # has no record yet


def test_processor_time_is_that_of_each_seed(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    for record in found:
        if record.seed == 1:
            record.content["measured"]["seconds_per_second"] = 0.002
    costs = table_of(page_of(experiment, found, 100), "Frames and cost")
    assert [row[-1] for row in costs] == ["2.00 to 4.00"] * 4
    del found[0].content["measured"]["seconds_per_second"]
    assert Cell(found[:1], "test").span("seconds_per_second") == ""


def test_records_of_another_experiment_count(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "recipe_folder", tmp_path)
    (tmp_path / "run.sh").touch()
    write_all(experiment, tmp_path / "mine")
    part = [{"methods": ["strided_conv", "cif"], "rates": [8], "seeds": [0, 7]}]
    other = replace(experiment, name="other", grid=part, records_of=["mine"])
    key = ("strided_conv", 8, 0)

    def counted(experiment):
        """Return the folders of the record that counts, and of the others."""
        folder = tmp_path / experiment.name
        fit, others = matching_records(experiment, folder)
        assert Grid(experiment, folder).finished().keys() == fit.keys() <= {key}
        return [
            [record.path.parent.name for record in records]
            for records in (fit.values(), others)
        ]

    assert counted(other) == [["mine"], []]
    # one of its own with other settings is named, and does not hide that one
    run, own = other.runs()[0], record_path(tmp_path / "other", other.runs()[0])
    write_record(own, {**content_of(other, run, WORSE), "fingerprint": "0"})
    assert counted(other) == [["mine"], ["other"]]
    page = tables.write_page(other, *matching_records(other, tmp_path / "other"), 100)
    assert "Not run yet, 3 of 4: cif 8x seed 0, strided_conv 8x seed 7" in page
    assert "Records of other settings, left out: strided_conv 8x seed 0." in page
    # a record of its own comes first, and those of other settings do not count
    write_record(own, content_of(other, run, REFERENCE))
    assert counted(other) == [["other"], []]
    again = replace(other, name="third", asr_args="--max_epoch 4")
    assert counted(again) == [[], []]


def test_another_training_set_is_refused(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    content = json.loads(json.dumps(found[0].content))
    content["measured"]["unalignable"]["train"] = [1, 51]
    with pytest.raises(UserError, match=r"different data \(train\): 51 and 50 utter"):
        page_of(experiment, [Record(content, "x"), *found[1:]], 100)


def test_the_picture_shows_every_method(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    figure = plot_of(experiment, found)
    (axes,) = figure.axes
    lines = {box.get_label(): box[0].get_xydata() for box in axes.containers}
    assert list(lines) == ["strided_conv", "adastride"]  # the baseline first
    np.testing.assert_allclose(lines["strided_conv"], [[1, 37.5], [2, 37.5]])
    np.testing.assert_allclose(lines["adastride"], [[1, 0], [2, 0]])
    # in other pictures with another order of the methods, too, it has the same style
    other = [{**experiment.grid[0], "methods": ["adastride", "strided_conv"]}]
    (axes,) = plot_of(replace(experiment, grid=other), found).axes
    names = [box.get_label() for box in axes.containers]
    mark = axes.containers[0][0]
    assert names == ["strided_conv", "adastride"]
    assert (mark.get_color(), mark.get_marker()) == (COLOURS[0], MARKERS[0])
    labels = {(t.get_text(), *t.xy, t.get_color()) for t in axes.texts}
    assert labels == {("6.25", 1, 37.5, COLOURS[0]), ("12.5", 2, 37.5, COLOURS[0])}
    assert "numbers: frames per second of strided_conv" in axes.get_xlabel()
    assert plot_of(experiment, []) is None


def test_the_picture_of_one_rate_has_a_row_for_each_method(experiment, tmp_path):
    """Compute would put all methods of a rate above one another."""
    grid = [{**experiment.grid[0], "rates": [8]}]
    experiment = replace(experiment, grid=grid)
    found = write_all(experiment, tmp_path / "mine")
    (axes,) = plot_of(experiment, found).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["adastride", "strided_conv"] and axes.yaxis_inverted()
    for place, (wer, number) in enumerate([(0.0, 1), (37.5, 0)]):  # baseline: 0
        (mark,) = [m for m in axes.lines if m.get_marker() == MARKERS[number]]
        np.testing.assert_allclose(mark.get_xydata(), [[wer, place]])
        assert mark.get_color() == COLOURS[number]
    seeds = [line.get_xdata() for line in axes.lines if line.get_marker() == "."]
    np.testing.assert_allclose(seeds, [[0.0, 0.0], [37.5, 37.5]])
    vertical = [m for m in axes.lines if np.ptp(m.get_ydata()) > 0]
    np.testing.assert_allclose([m.get_xdata() for m in vertical], [[37.5, 37.5]])


def test_a_second_picture_joins_methods_to_lines(experiment, tmp_path):
    found = write_all(experiment, tmp_path)
    joined = {"no record": ["cif"], "both": ["adastride", "strided_conv"]}
    figure = plot_of(replace(experiment, lines=joined), found, chosen=True)
    (line,) = figure.axes[0].containers
    assert line.get_label() == "both"
    np.testing.assert_allclose(line[0].get_xydata()[:, 0], [1, 1, 2, 2])
    assert sorted(line[0].get_xydata()[:, 1]) == [0, 0, 37.5, 37.5]
    words = {text.get_text() for text in figure.axes[0].texts}
    assert words == {"6.25", "12.5"}  # at the baseline's points alone
    none = replace(experiment, lines={"no record": ["cif"]})
    assert plot_of(none, found, chosen=True) is None


@pytest.mark.parametrize("content", [b"[1]", b'{"format": 1}', b"{"])
def test_what_is_no_record_is_named(tmp_path, content):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match="x.json.gz: cannot be read as a record"):
        read_records(tmp_path)
    whole = gzip.compress(b"{}" * 500)
    path.write_bytes(whole[:12] + bytes([whole[12] ^ 255]) + whole[13:])
    with pytest.raises(UserError, match="or remove it and run again"):
        read_records(tmp_path)
