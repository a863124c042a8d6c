"""Put the plugin into ESPnet's registries, in place.

ESPnet reads no entry points: import ``espnet_adastride.plugin``, or run ESPnet's tools
with ``python -m espnet_adastride.bin.run``.

The tasks are those whose encoder reads frames of speech and is one of ``encoders.py``:
asr (with its transducer decoder, and ESPnet3's copy of the task), st, slu, s2t, s2t_ctc
(OWSM-CTC) and cls. asr_transducer, which builds its encoder from blocks, takes the
words for its input block (``transducer.py``). Encoders that build their input layer in
another way reject them in one line.
"""

import inspect

from espnet_adastride.plugin import (
    alignment,
    encoders,
    named_audio,
    owsm,
    short_audio,
    transducer,
)
from espnet_adastride.plugin.defaults import record_defaults
from espnet_adastride.plugin.imports import after_import
from espnet_adastride.plugin.layer_sum import LayerSum
from espnet_adastride.plugin.model import AdaptiveModels, adaptive_model
from espnet_adastride.plugin.resnet_encoder import ResNetEncoder
from espnet_adastride.plugin.trainer import StrideTrainer

#: encoders that every task gets; it gets the others where ESPnet has them
EVERYWHERE = ("conformer", "e_branchformer", "branchformer", "transformer")

#: module -> its task's class (None: it has another's trainer)
TASKS = {
    "espnet2.tasks.asr": "ASRTask",
    "espnet2.tasks.st": "STTask",
    "espnet2.tasks.slu": "SLUTask",
    "espnet2.tasks.s2t": "S2TTask",
    "espnet2.tasks.s2t_ctc": "S2TTask",
    "espnet2.tasks.cls": "CLSTask",
    "espnet3.systems.esp2_asr.task": None,
}

#: tasks that name their model's class themselves
NAMED_MODELS = {
    "espnet2.tasks.st": "ESPnetSTModel",
    "espnet2.tasks.cls": "ESPnetClassificationModel",
}


def register() -> None:
    """Change ESPnet in place; idempotent.

    Its tasks build the plugin's encoders and models, record the defaults they used and
    draw strides, its reader of ``wav.scp`` names a recording that cannot be read, its
    Fourier transform rejects very short recordings, its aligners use the frames' true
    times, and its OWSM decoders do without a frame rate.

    A task's module is changed when it is imported, before its ``get_parser()``:
    ``build_model`` reads these names from the module.
    """
    named_audio.install()
    short_audio.install()
    alignment.install()
    owsm.install()
    for name in TASKS:
        after_import(name, register_task)
    after_import("espnet2.tasks.asr_transducer", register_transducer)


def register_transducer(task) -> None:
    """Put encoder, model and trainer into the module of the task ``asr_transducer``.

    Idempotent.
    """
    task.ASRTransducerTask.trainer = StrideTrainer
    record_defaults(task.ASRTransducerTask)
    task.ESPnetASRTransducerModel = adaptive_model(task.ESPnetASRTransducerModel)
    if not hasattr(task.Encoder, "knows_our_words"):
        task.Encoder = transducer.adaptive_encoder(task.Encoder)


def register_task(task) -> None:
    """Put encoders, models and trainer into a task's module; idempotent."""
    if TASKS[task.__name__] is not None:
        task_class = getattr(task, TASKS[task.__name__])
        task_class.trainer = StrideTrainer
        record_defaults(task_class)
    register_encoders(task.encoder_choices.classes)
    if hasattr(task, "preencoder_choices"):
        task.preencoder_choices.classes["layer_sum"] = LayerSum
    if task.__name__ == "espnet2.tasks.cls":
        task.encoder_choices.classes["resnet"] = ResNetEncoder
    if hasattr(task, "model_choices"):
        task.model_choices.classes = AdaptiveModels(task.model_choices.classes)
    name = NAMED_MODELS.get(task.__name__)
    if name is not None:
        setattr(task, name, adaptive_model(getattr(task, name)))


def register_encoders(classes) -> None:
    """Put the plugin's encoders into a task's registry, ``{word: class}``."""
    for word, ours in encoders.ENCODERS.items():
        if word in EVERYWHERE or word in classes:
            classes[word] = ours
    for word, stock in classes.items():
        if word in encoders.ENCODERS or getattr(stock, "refuses", False):
            continue
        if "input_layer" in inspect.signature(stock).parameters:
            classes[word] = encoders.refusing(word, stock)
