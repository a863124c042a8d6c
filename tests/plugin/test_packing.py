"""A packed model is the same model elsewhere, wherever its files lay."""

import os
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.asr import ASRTask

import espnet_adastride.plugin  # noqa: F401  (registers the words)
from espnet_adastride.bin import pack_model
from espnet_adastride.networks.unpacking import unpack

CONFIG = """\
encoder: conformer
encoder_conf:
    output_size: 16
    attention_heads: 2
    num_blocks: 1
    linear_units: 16
    rel_pos_type: latest
    input_layer: adastride
    input_layer_conf: {stride: 8}
decoder: transformer
decoder_conf: {attention_heads: 2, linear_units: 16, num_blocks: 1}
model_conf: {ctc_weight: 0.5}
frontend_conf: {n_fft: 512, hop_length: 160, n_mels: 40, fs: 16k}
normalize: utterance_mvn
token_type: char
token_list: [<blank>, <unk>, {letters}, <sos/eos>]
""".replace(
    "{letters}", ", ".join("abcdefghijklmopqrstuvwxz")  # a beam of 20 needs so many
)


def options(config, weights, archive, *more):
    words = ["--asr_train_config", str(config), "--asr_model_file", str(weights)]
    return [*words, "--outpath", str(archive), *map(str, more)]


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A model in exp/, which is a link to another disk, in the recipe's folder."""
    recipe, disk = tmp_path / "recipe", tmp_path / "disk"
    recipe.mkdir()
    disk.mkdir()
    (recipe / "exp").symlink_to(disk)
    monkeypatch.chdir(recipe)
    parser = ASRTask.get_parser()
    (disk / "train.yaml").write_text(CONFIG)
    torch.manual_seed(3)
    args = parser.parse_args(["--config", str(disk / "train.yaml")])
    model = ASRTask.build_model(args).eval()
    config = dict(vars(args), bpemodel="exp/pieces.model", cleaner="exp")
    config["non_linguistic_symbols"] = str(disk / "symbols.txt")  # absolute
    (disk / "config.yaml").write_text(yaml.safe_dump(config))
    for name in ("pieces.model", "symbols.txt"):
        (disk / name).write_text(name)
    torch.save(model.state_dict(), disk / "2best.pth")
    (disk / "ave.pth").symlink_to("2best.pth")
    return model


@pytest.mark.parametrize("suffix", ["zip", "tgz", "tar.gz"])
def test_files_behind_links_and_absolute_ones_reach_another_machine(
    experiment, suffix, tmp_path, capfd
):
    archive = tmp_path / f"out/model.{suffix}"
    pack_model.main(options("exp/config.yaml", "exp/ave.pth", archive))
    assert "parameters" in capfd.readouterr().out.splitlines()[-1]
    os.rename(tmp_path / "disk", tmp_path / "gone")
    target = tmp_path / "another machine"
    files = unpack(archive, target)
    assert files["asr_model_file"] == f"{target}/exp/ave.pth"
    config = yaml.safe_load(open(files["asr_train_config"]))
    assert config["bpemodel"] == f"{target}/exp/pieces.model"
    assert open(config["bpemodel"]).read() == "pieces.model"
    assert open(config["non_linguistic_symbols"]).read() == "symbols.txt"
    assert config["cleaner"] == "exp"  # a word is no path
    assert (target / "README.md").read_text() == (
        tmp_path / "out/README.md"
    ).read_text()
    assert f"unpack_model model.{suffix} model" in (target / "README.md").read_text()
    model, _ = ASRTask.build_model_from_file(
        files["asr_train_config"], files["asr_model_file"], "cpu"
    )
    speech, lengths = torch.randn(1, 16000), torch.tensor([16000])
    with torch.no_grad():
        before = experiment.encode(speech, lengths)[0]
        after = model.eval().encode(speech, lengths)[0]
    assert torch.equal(before, after)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["README.md", f"model.{suffix}"]
    )


def test_half_the_size_loads_as_float32_and_differs_by_its_rounding_alone(
    experiment, tmp_path
):
    whole, half = tmp_path / "whole.zip", tmp_path / "half.zip"
    further = ["--option", tmp_path / "disk/symbols.txt"]
    given = options("exp/config.yaml", "exp/ave.pth", whole, *further)
    pack_model.main(given)
    half_given = options("exp/config.yaml", "exp/ave.pth", half, *further)
    pack_model.main([*half_given, "--dtype", "float16"])
    files = unpack(half, tmp_path / "there")
    stored = torch.load(files["asr_model_file"], weights_only=True)
    expected = experiment.state_dict()
    assert stored.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            assert stored[name].dtype == torch.float16
            value = value.half()
        assert torch.equal(stored[name], value)
    model, _ = ASRTask.build_model_from_file(
        files["asr_train_config"], files["asr_model_file"], "cpu"
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    sizes = [Path(path).stat().st_size for path in (half, whole)]
    assert sizes[0] < 0.75 * sizes[1]
    assert "(float16)" in (tmp_path / "there" / "README.md").read_text()

    state = torch.load("exp/ave.pth", weights_only=True)
    name = next(name for name in state if name.endswith("weight"))
    state[name].view(-1)[0] = 1e6
    torch.save(state, "exp/ave.pth")
    with pytest.raises(
        SystemExit, match=f"{name} has numbers beyond the range of float16"
    ):
        pack_model.main([*half_given, "--dtype", "float16"])


def test_the_cards_snippet_recognises_what_the_model_did(
    experiment, tmp_path, monkeypatch
):
    archive = tmp_path / "model.zip"
    further = ["--option", tmp_path / "disk/symbols.txt"]
    pack_model.main(options("exp/config.yaml", "exp/ave.pth", archive, *further))
    before = Speech2Text("exp/config.yaml", "exp/ave.pth")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    unpack(archive, "model")
    speech = 0.1 * torch.randn(8000)
    soundfile.write("speech.flac", speech.numpy(), 16000)
    card = (elsewhere / "model" / "README.md").read_text()
    scope = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    text, _, ids, _ = before(scope["speech"])[0]
    assert scope["text"] == text and len(ids) > 0


def test_a_readme_that_is_no_card_is_kept(experiment, tmp_path):
    words = options("exp/config.yaml", "exp/ave.pth", tmp_path / "model.zip")
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(SystemExit, match="README.md is not a model's card"):
        pack_model.main(words)
    assert (tmp_path / "README.md").read_text() == "# My project\n"
    assert not (tmp_path / "model.zip").exists()


def test_what_does_not_load_is_not_packed(experiment, tmp_path):
    def refused(*words):
        with pytest.raises(SystemExit) as error:
            pack_model.main(words)
        assert not (tmp_path / "a.zip").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    for name in ("a", "a.rar", "a.v1.tar.gz"):
        line = refused(*options("exp/config.yaml", "exp/ave.pth", tmp_path / name))
        assert "the name must end in .zip, .tar, .tgz" in line
    archive = tmp_path / "a.zip"
    line = refused(*options("exp/config.yaml", "exp/9best.pth", archive))
    assert "exp/9best.pth is missing: train first" in line
    config = yaml.safe_load(open("exp/config.yaml"))
    config["encoder_conf"]["input_layer_conf"]["stride"] = 4
    open("exp/other.yaml", "w").write(yaml.safe_dump(config))
    line = refused(*options("exp/other.yaml", "exp/ave.pth", archive))
    assert "the checkpoint does not fit the configured model" in line
    others = [
        ({**config, "joint_network_conf": {}}, "a model of the task asr_transducer"),
        ({**config, "token_list": None}, "not the config of an ASR model"),
        ({**config, "encoder": "e_branchformer_ctc"}, "the task asr, whose models"),
        ({**config, "decoder": "linear"}, "the task asr, whose models"),
    ]
    for other, problem in others:
        open("exp/other.yaml", "w").write(yaml.safe_dump(other))
        line = refused(*options("exp/other.yaml", "exp/ave.pth", archive))
        assert f"exp/other.yaml: {problem}" in line
    data = open("exp/2best.pth", "rb").read()
    open("exp/torn.pth", "wb").write(data[: len(data) // 2])
    line = refused(*options("exp/config.yaml", "exp/torn.pth", archive))
    assert "exp/torn.pth has other objects than tensors, or is truncated" in line
    (tmp_path / "disk/pieces.model").unlink()
    line = refused(*options("exp/config.yaml", "exp/ave.pth", archive))
    assert "exp/config.yaml names exp/pieces.model, which is missing" in line


def test_without_the_import_espnet_says_what_the_card_says():
    with pytest.raises(TypeError) as error:
        ConformerEncoder(40, input_layer="adastride", input_layer_conf={"stride": 8})
    from espnet_adastride.report import model_card

    text = model_card.model_card("a", {}, 1, {}, None, "mit", "en")
    quoted = "unexpected keyword argument 'input_layer_conf'"
    assert quoted in str(error.value) and quoted in " ".join(text.split())
