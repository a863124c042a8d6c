"""README and docs: snippets run, the YAML builds, files, links and commands exist."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LAYER = (ROOT / "docs" / "layer.md").read_text(encoding="utf-8")
INPUT_LAYER = (ROOT / "docs" / "input_layer.md").read_text(encoding="utf-8")
PAGES = sorted(
    page
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("e*/**/*.md"),
        *ROOT.glob("models/*.md"),
        *ROOT.glob("results/*.md"),
    ]
    if page.is_file()
)


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_snippet_runs_with_the_shapes_it_states():
    (snippet,) = blocks("python")
    scope = {}
    exec(snippet, scope)
    out = scope["out"]
    assert out.output.shape == (2, 250, 256) and out.lengths.tolist() == [250, 150]
    assert out.positions.shape == (2, 1000) and scope["loss"].shape == ()


def test_the_snippet_of_the_layers_page_runs_with_the_shapes_it_states():
    (snippet,) = blocks("python", LAYER)
    scope = {}
    exec(snippet, scope)
    out = scope["out"]
    assert scope["beside"].shape == (8, 250, 64)
    assert scope["back"].shape == (8, 1000, 256)
    assert out.output.shape == (8, 250, 256)
    assert out.lengths.tolist() == [250, 225, 200, 175, 150, 125, 100, 1]
    assert out.positions.shape == (8, 1000) and out.positions.dtype == torch.float64
    assert out.aux_loss.shape == ()


def test_the_yaml_diff_builds_an_encoder():
    yaml = pytest.importorskip("yaml")
    from espnet2.tasks.asr import encoder_choices

    import espnet_adastride.plugin  # noqa: F401

    (diff,) = blocks("diff")
    after = "\n".join(
        line[1:] for line in diff.splitlines() if not line.startswith("-")
    )
    conf = yaml.safe_load(after)
    encoder = encoder_choices.get_class(conf["encoder"])
    encoder = encoder(80, rel_pos_type="latest", num_blocks=1, **conf["encoder_conf"])
    _, lengths, _ = encoder.eval()(torch.randn(1, 81, 80), torch.tensor([81]))
    assert lengths.tolist() == [11]


def test_files_and_commands_exist():
    folders = "conf|egs|examples|benchmarks|espnet_adastride"
    names = re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]*\w", README)
    assert any(name.startswith("egs/") for name in names)
    for name in names:
        if "/exp/" not in name:
            assert (ROOT / name).exists(), name
    targets = re.findall(r"^make (\w+)$", README, flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(targets)
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_every_page_lead_somewhere(page):
    """Files beside the page, and headings in them as GitHub names them."""
    text = page.read_text(encoding="utf-8")
    for name, heading in re.findall(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]*)?\)", text):
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {name}"
        if heading:
            lines = target.read_text(encoding="utf-8").splitlines()
            titles = [line.lstrip("# ") for line in lines if line.startswith("#")]
            anchors = [
                re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
                for title in titles
            ]
            assert heading[1:] in anchors, f"{page.name}: {name}{heading}"


def test_your_own_recordings_are_trained_by_the_command_that_prepare_prints(tmp_path):
    from espnet_adastride.bin.prepare import next_command

    for part in ("train", "valid", "test"):
        (tmp_path / "data" / part).mkdir(parents=True)
    (printed,) = next_command(tmp_path / "data")
    page = (ROOT / "docs" / "own_recordings.md").read_text(encoding="utf-8")
    for text in (README, page):
        (command,) = re.findall(r"/egs/asr\.sh (.*)", text.replace("\\\n", " "))
        assert command.split() == printed.partition("/egs/asr.sh ")[2].split()


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_every_word_of_the_table_is_an_option_and_every_option_is_in_it():
    from espnet_adastride import available_downsamplers
    from espnet_adastride.downsampling import downsampler_class
    from espnet_adastride.downsampling.registry import downsampler_options
    from espnet_adastride.plugin.layer_conf import OWN_WORDS

    section = INPUT_LAYER.split("## Options")[1].split("\n\n")[1]
    words = set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))
    known = set(OWN_WORDS)
    for name in available_downsamplers():
        assert f"`{name}`" in INPUT_LAYER.split("## Options")[0]
        known |= set(downsampler_options(name))
        for word, value in downsampler_class(name).training_defaults.items():
            assert re.search(rf"^\| `{word}` \| `?{value}`? \|", section, re.MULTILINE)
    assert words == known
