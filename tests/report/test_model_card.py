"""The card of a packed model."""

import pytest
import yaml

from espnet_adastride.errors import UserError
from espnet_adastride.report.model_card import model_card

CONFIG = {
    "version": "202611",
    "encoder": "conformer",
    "encoder_conf": {"input_layer": "adastride", "input_layer_conf": {"stride": 8}},
    "frontend_conf": {"fs": "16k"},
    "token_type": "bpe",
    "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"],
    "output_dir": "/home/someone/exp",
}
FILES = {"asr_train_config": "exp/a/config.yaml", "asr_model_file": "exp/a/v.pth"}


def card(results=None, language="en"):
    return model_card("a_v", CONFIG, 38470000, FILES, results, "cc-by-4.0", language)


def test_the_header_is_yaml_and_the_snippet_runs_up_to_the_model():
    head, text = card().split("---\n")[1:]
    assert yaml.safe_load(head) == {
        "tags": ["espnet", "audio", "automatic-speech-recognition"],
        "library_name": "espnet",
        "license": "cc-by-4.0",
        "language": "en",
    }
    assert "`adastride`, 38.5 M parameters, 4 bpe\ntokens, audio with 16k" in text
    assert "unpack_model a_v.zip model" in text
    assert "202611 on Python 3.12 and 3.13, or 202511" in text
    assert "trained with ESPnet 202611" in text
    snippet = text.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert snippet.startswith("import espnet_adastride.plugin")
    assert (
        'Speech2Text(asr_model_file="model/exp/a/v.pth", '
        'asr_train_config="model/exp/a/config.yaml")' in snippet
    )
    assert "cc-by-4.0. Please cite:" in text and "TadaStride" in text
    assert "someone" not in text and "Not scored yet." in text
    assert "language" not in card(language="noinfo").split("---\n")[1]


def test_results_stand_below_a_heading_of_the_card(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text("<!-- made by a command -->\n# RESULTS\n## Environments\n|a|b|\n")
    text = card(page)
    assert "## Results\n\n### Environments\n|a|b|\n" in text
    assert "made by" not in text
    page.write_bytes(b"# RESULTS\n\xe9\n")
    with pytest.raises(UserError, match="RESULTS.md:2: not UTF-8"):
        card(page)
