"""What is compared: order, fingerprints, messages."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from espnet_adastride.errors import UserError
from espnet_adastride.experiments import definition
from espnet_adastride.experiments.definition import read_experiment
from espnet_adastride.experiments.records import read_records

ROOT = Path(__file__).resolve().parents[2]
CONTENT = {
    "title": "A comparison",
    "recipe": "egs/mine",
    "asr_config": "train.yaml",
    "test_sets": ["test", "dev"],
    "variants": ["bound2=adastride score_bound=2"],
    "grid": [
        {"methods": ["strided_conv", "bound2"], "rates": [8, 4], "seeds": [0]},
        {"methods": ["strided_conv"], "rates": [8, 2], "seeds": [0, 1]},
    ],
}
BEAM = {"inference_config": "beam.yaml"}
GREEDY = {"inference_config": "decode_ctc_greedy.yaml"}
WITH_LM = {**BEAM, "use_lm": True}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a definition, below a root with one configuration."""
    monkeypatch.setattr(definition, "ROOT", tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("max_epoch: 3\n# a comment\n")
    (tmp_path / "conf" / "lm.yaml").write_text("max_epoch: 2\n")
    (tmp_path / "conf" / "beam.yaml").write_text("beam_size: 5\n")
    (tmp_path / "conf" / "decode_ctc_greedy.yaml").write_text("batch_size: 1\n")

    def write(**changes):
        content = {**CONTENT, **changes}
        content = {k: v for k, v in content.items() if v is not None}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "mine.yaml"

    return write


def test_runs_in_their_order_each_once(write):
    runs = read_experiment(write()).runs()
    assert [str(run) for run in runs] == [
        "strided_conv 8x seed 0",
        "bound2 8x seed 0",
        "strided_conv 4x seed 0",
        "bound2 4x seed 0",
        "strided_conv 2x seed 0",
        "strided_conv 8x seed 1",
        "strided_conv 2x seed 1",
    ]
    assert "input_layer_conf.score_bound=2" in runs[1].asr_args
    assert len({run.tag for run in runs}) == len(runs)


def test_the_fingerprint_is_of_what_bears_on_results(write, tmp_path):
    one = read_experiment(write())
    other = read_experiment(write(title="Another name", grid=CONTENT["grid"][:1]))
    before = one.fingerprint()
    assert other.fingerprint() == before
    (tmp_path / "conf" / "train.yaml").write_text("# another comment\nmax_epoch: 3\n")
    assert one.fingerprint() == before
    for change in (
        {"asr_args": "--seed 1"},
        {"options": {"nbpe": 5}},
        {"train_set": "other"},
        {"valid_set": "other"},
        {"script": "other.sh"},
        {"data": {"train": "abc"}},
    ):
        assert replace(one, **change).fingerprint() != before
    (tmp_path / "conf" / "train.yaml").write_text("max_epoch: 4\n")
    assert one.fingerprint() != before
    assert one.prefix.startswith("mine_")


def test_decodings_are_settings_of_the_results_but_not_of_the_models(write, tmp_path):
    once = read_experiment(write())
    assert once.reported == "test" and once.scored_sets() == {"": ["test", "dev"]}
    decodings = {"beam": BEAM, "lm": WITH_LM}
    more = read_experiment(write(decodings=decodings, lm_config="lm.yaml"))
    assert more.reported == "beam/test" and more.lm_decoding() == "lm"
    assert more.scored_sets()["lm"] == ["lm/test", "lm/dev"]
    assert more.prefix == once.prefix and more.fingerprint() != once.fingerprint()
    for name in ("beam.yaml", "lm.yaml"):  # their contents count
        before = more.fingerprint()
        (tmp_path / "conf" / name).write_text("beam_size: 7\n")
        assert more.fingerprint() != before and more.prefix == once.prefix


def test_settings_without_decodings_are_those_of_earlier_records():
    """The records in git stay valid."""
    experiment = read_experiment(ROOT / "conf/experiments/whisper_strides.yaml")
    found = read_records(ROOT / "results/records/whisper_strides")
    assert found and {r.settings[0] for r in found} == {experiment.fingerprint()}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"titel": "x"}, "unknown word 'titel'; choose among"),
        ({"data": {"train": "abc"}}, "unknown word 'data'"),  # measured, not given
        ({"recipe": None}, "'recipe' is missing"),
        ({"test_sets": []}, "test_sets is empty"),
        ({"grid": [{"methods": ["stack"], "rates": [4]}]}, "methods, rates and seeds"),
        ({"grid": [{"methods": [], "rates": [4], "seeds": [0]}]}, "none of them empty"),
        ({"grid": [{"methods": ["stack"], "rates": 4, "seeds": [0]}]}, "is lists of"),
        (
            {"grid": [{"methods": ["stack"], "rates": [0.5], "seeds": [0]}]},
            "rates: 0.5: give numbers of at least 1",
        ),
        (
            {"grid": [{"methods": ["stack"], "rates": [4], "seeds": ["x"]}]},
            "seeds: 'x': give whole numbers",
        ),
        ({"baseline": "avg_pool"}, "baseline avg_pool is in no part"),
        ({"pairs": [["bound2", "avg_pool"]]}, "pairs: give two methods of the grid"),
        ({"pairs": ["bound2"]}, r"such as \[adastride, strided_conv\], got bound2"),
        ({"pairs": [["bound2"] * 3]}, "pairs: give two"),
        ({"variants": []}, "bound2 is neither a method nor one of the variants"),
        ({"variants": ["bound2"]}, "mine.yaml: variants: 'bound2': give NAME=METHOD"),
        ({"variants": ["bound2=adastrde"]}, "method 'adastrde' .did you mean 'adastr"),
        (
            {"variants": ["bound2=adastride", "bound2=adastride_f"]},
            "variants: two variants are called bound2: rename one",
        ),
        ({"variants": "bound2=adastride"}, "variants: give a list"),
        ({"variants": [{"bound2": "adastride"}]}, "variants: {'bound2.* is not a text"),
        ({"test_sets": ["test", "test"]}, "test_sets: test is given twice"),
        ({"title": 3}, "title: give a text, got 3"),
        ({"asr_args": ["--seed", "1"]}, "asr_args: give a text"),
        ({"options": ["nbpe"]}, "options: give NAME: VALUE pairs"),
        ({"feature_rate": 0}, "feature_rate: give a number above 0"),
        ({"baseline": ["stack"]}, "baseline: give a text"),
        (
            {"grid": [{"methods": [["stack"]], "rates": [4], "seeds": [0]}]},
            r"methods: \['stack'\] is not the name of one",
        ),
        (
            {"grid": [{"methods": ["strided_conv"], "rates": [4], "seeds": [0, 0]}]},
            "mine.yaml: seeds: 0 is given twice",
        ),
        ({"pairs": [["bound2", "bound2"]]}, "bound2, bound2. cannot be compared"),
        (
            {
                "grid": [
                    {"methods": ["strided_conv"], "rates": [8], "seeds": [0]},
                    {"methods": ["stack"], "rates": [8], "seeds": [1]},
                ],
                "pairs": [["stack", "strided_conv"]],
            },
            "pairs: .stack, strided_conv. cannot be compared",
        ),
        (
            {
                "task": "classification",
                "grid": [{"methods": ["strided_conv"], "rates": [8, 4], "seeds": [0]}],
            },
            "a classification has one: give each rate a definition of its own",
        ),
        ({"lines": ["stack"]}, "lines: give NAME: VALUE pairs"),
        ({"lines": {"one": "strided_conv"}}, "give LABEL: .METHODS., methods of the"),
        ({"lines": {"one": []}}, "give LABEL: .METHODS., methods of the grid, got one"),
        ({"lines": {"one": ["cif"]}}, "methods of the grid, got one: .'cif'."),
        (
            {
                "task": "vqvae",
                "grid": [{"methods": ["strided_conv"], "rates": [8], "seeds": [0]}],
                "variants": None,
                "lines": {"one": ["strided_conv"]},
            },
            "lines: vqvae has one picture; remove them",
        ),
        ({"asr_config": "gone.yaml"}, "gone.yaml is not in conf/"),
        ({"decodings": ["beam.yaml"]}, r"decodings: give NAME: \{inference_config"),
        ({"decodings": {"beam": "beam.yaml"}}, "decoding beam: give inference_config"),
        ({"decodings": {"b": {**BEAM, "lm": 1}}}, "decoding b: give .* got {'inf.*'lm"),
        ({"decodings": {"a/b": BEAM}}, "decoding a/b: it names a folder: use let"),
        ({"decodings": {"b": {"inference_config": "x.yaml"}}}, "x.yaml is not in conf"),
        (
            {"decodings": {"b": WITH_LM}},
            "decoding b: it uses a language model: name its",
        ),
        ({"decodings": {"b": WITH_LM}, "lm_config": "x"}, "lm_config x is not in conf"),
        ({"decodings": {"b": BEAM}, "lm_config": "lm.yaml"}, "no decoding has use_lm"),
        (
            {"decodings": {"b": {**BEAM, "use_lm": "yes"}}},
            "use_lm: 'yes': give true or",
        ),
        ({"lm_config": "lm.yaml"}, "lm_config: no decoding has use_lm"),
        (
            {
                "decodings": {"b": {**GREEDY, "use_lm": True}},
                "lm_config": "lm.yaml",
            },
            "decoding b: greedy CTC cannot use a language model",
        ),
    ],
)
def test_mistakes_are_one_line(write, changes, message):
    with pytest.raises(UserError, match=message) as error:
        read_experiment(write(**changes))
    assert "\n" not in str(error.value)


def test_the_definitions_of_the_repository_can_be_read():
    paths = sorted((ROOT / "conf" / "experiments").glob("*.yaml"))
    assert paths
    for path in paths:
        experiment = read_experiment(path)
        assert experiment.runs() and (experiment.recipe_folder).is_dir()
        assert (experiment.recipe_folder / experiment.script).is_file()
