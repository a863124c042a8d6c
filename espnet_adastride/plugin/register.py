"""Put the plugin into ESPnet's registries, in place.

ESPnet reads no entry points: whoever wants the plugin imports
``espnet_adastride.plugin``, or runs ESPnet's tools through ``python -m
espnet_adastride.bin.run``.

The tasks are those with an encoder that reads frames of speech and one of the encoders
of ``encoders.py``: asr (its transducer decoder included; ESPnet3's copy of it, too),
st, slu, s2t, s2t_ctc (OWSM-CTC) and cls. Encoders and tasks that build their input
layer in another way refuse the plugin's words in one line.
"""

import inspect

from espnet_adastride.plugin import (
    alignment,
    encoders,
    espnet,
    model,
    named_audio,
    short_audio,
)
from espnet_adastride.plugin.layer_sum import LayerSum
from espnet_adastride.plugin.resnet_encoder import ResNetEncoder
from espnet_adastride.plugin.trainer import StrideTrainer

#: encoders that every task gets; the others it gets where ESPnet has them
EVERYWHERE = ("conformer", "e_branchformer", "branchformer", "transformer")

#: the tasks' classes, which name their trainer
TASKS = (
    espnet.asr_task.ASRTask,
    espnet.st_task.STTask,
    espnet.slu_task.SLUTask,
    espnet.s2t_task.S2TTask,
    espnet.s2t_ctc_task.S2TTask,
    espnet.cls_task.CLSTask,
)

#: ESPnet's task, its model and ours
MODELS = (
    (espnet.asr_task, espnet.ESPnetASRModel, model.AdaStrideASRModel),
    (espnet.st_task, espnet.ESPnetSTModel, model.AdaStrideSTModel),
    (espnet.slu_task, espnet.ESPnetSLUModel, model.AdaStrideSLUModel),
    (espnet.s2t_task, espnet.ESPnetS2TModel, model.AdaStrideS2TModel),
    (espnet.s2t_ctc_task, espnet.ESPnetS2TModel, model.AdaStrideS2TModel),
    (espnet.s2t_ctc_task, espnet.ESPnetS2TCTCModel, model.AdaStrideS2TCTCModel),
    (espnet.cls_task, espnet.ESPnetClassificationModel, model.AdaStrideCLSModel),
)
if espnet.espnet3_asr_task is not None:
    MODELS += (
        (espnet.espnet3_asr_task, espnet.ESPnetASRModel, model.AdaStrideASRModel),
    )


def register() -> None:
    """Let ESPnet's tasks build the plugin's encoders and models, and draw strides.

    And let its reader of ``wav.scp`` name a recording that cannot be read, its Fourier
    transform call one of few samples too short, and its aligners use the frames' true
    times.

    It is idempotent.

    The tasks' ``build_model`` read these module-level names, so they are changed in
    place; it must happen before ``get_parser()``.
    """
    named_audio.install()
    short_audio.install()
    alignment.install()
    for task_class in TASKS:
        task_class.trainer = StrideTrainer
    espnet.asr_transducer_task.Encoder = encoders.TransducerEncoder
    for task, stock, ours in MODELS:
        register_encoders(task.encoder_choices.classes)
        if hasattr(task, "preencoder_choices"):
            task.preencoder_choices.classes["layer_sum"] = LayerSum
        if task is espnet.cls_task:
            task.encoder_choices.classes["resnet"] = ResNetEncoder
        if hasattr(task, "model_choices"):
            models = task.model_choices.classes
            for word in [word for word, kind in models.items() if kind is stock]:
                models[word] = ours
        if task in (espnet.st_task, espnet.cls_task):  # they name the class itself
            setattr(task, stock.__name__, ours)


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
