"""The page about a planned training, by hand."""

from espnet_adastride.evaluation.plan import Measured, ModelCost, StepCost
from espnet_adastride.report.plan import cost_lines, set_table, write_plan
from tests.evaluation.test_plan import lengths


def test_the_page(tmp_path):
    train = lengths([10, 5, 2, 2], [9, 6, 1, 1], [("a", "b"), ("c", "d")])
    valid = lengths([10], [9], name="validation")
    cost = ModelCost("conformer, input layer conv2d", 38.4e6, 2.1e6, 3e9, 1e9, 1.5)
    steps = [StepCost(64000, 1.0, 2**30, 1.0), StepCost(128000, 2.0, 2**31, 0.25)]
    table = set_table([train, valid], 7)
    costs = cost_lines([train, valid], cost, Measured(steps, "this CPU"))
    text = write_plan(tmp_path / "plan.md", "exp/a", table, costs, ["take care"])
    assert (tmp_path / "plan.md").read_text() == text
    for line in (
        "| | training | validation |",
        "| utterances | 4 | 1 |",
        "| frames a second behind the input layer | 25.0 | 25.0 |",
        "| CTC cannot align (frames < labels + repeats) | 1 (25 %) | 0 |",
        "| utterances a batch, least / median / most | 2 / 2 / 2 | 1 / 1 / 1 |",
        "| padding | 20.8 % | 0 % |",
        "- model: conformer, input layer conv2d: 38.4 M parameters, 2.1 M of them in "
        "the input layer",
        "- multiply-accumulates a second of audio: 2 G, 667 M of them in the input "
        "layer (forward of an utterance of 1.5 s; FLOPs are twice that)",
        "- a median batch, 4 s of audio: 1.00 s, 1.00 GiB (measured)",
        "- the largest batch, 8 s of audio: 2.00 s, 2.00 GiB (extrapolated from "
        "25 % of it)",
        "- warning: take care",
    ):
        assert line in text.splitlines()
    none = cost_lines([train], cost, Measured([], "no GPU"))
    assert "not measured (no GPU)" in none[-1]
