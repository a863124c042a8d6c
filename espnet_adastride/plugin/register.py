"""Put the plugin into ESPnet's registries, in place.

ESPnet reads no entry points: whoever wants the plugin imports
``espnet_adastride.plugin``, or runs ESPnet's tools through ``python -m
espnet_adastride.bin.run``.

The tasks are those with an encoder that reads frames of speech and one of the encoders
below: asr (its transducer decoder included), st, slu, s2t and cls. The task
``asr_transducer`` builds its encoder from blocks of its own and is left alone.
"""

from espnet_adastride.plugin import encoders, espnet, model, named_audio
from espnet_adastride.plugin.layer_sum import LayerSum
from espnet_adastride.plugin.resnet_encoder import ResNetEncoder
from espnet_adastride.plugin.trainer import StrideTrainer

ENCODERS = {
    "conformer": encoders.ConformerEncoder,
    "e_branchformer": encoders.EBranchformerEncoder,
    "branchformer": encoders.BranchformerEncoder,
    "transformer": encoders.TransformerEncoder,
}

#: the tasks' classes, which name their trainer
TASKS = (
    espnet.asr_task.ASRTask,
    espnet.st_task.STTask,
    espnet.slu_task.SLUTask,
    espnet.s2t_task.S2TTask,
    espnet.cls_task.CLSTask,
)

#: ESPnet's task, its model and ours
MODELS = (
    (espnet.asr_task, espnet.ESPnetASRModel, model.AdaStrideASRModel),
    (espnet.st_task, espnet.ESPnetSTModel, model.AdaStrideSTModel),
    (espnet.slu_task, espnet.ESPnetSLUModel, model.AdaStrideSLUModel),
    (espnet.s2t_task, espnet.ESPnetS2TModel, model.AdaStrideS2TModel),
    (espnet.cls_task, espnet.ESPnetClassificationModel, model.AdaStrideCLSModel),
)


def register() -> None:
    """Let ESPnet's tasks build the plugin's encoders and models, and draw strides.

    And let its reader of ``wav.scp`` name a recording that cannot be read.

    It is idempotent.

    The tasks' ``build_model`` read these module-level names, so they are changed in
    place; it must happen before ``get_parser()``.
    """
    named_audio.install()
    for task_class in TASKS:
        task_class.trainer = StrideTrainer
    for task, stock, ours in MODELS:
        task.encoder_choices.classes.update(ENCODERS)
        if hasattr(task, "preencoder_choices"):
            task.preencoder_choices.classes["layer_sum"] = LayerSum
        if task is espnet.cls_task:
            task.encoder_choices.classes["resnet"] = ResNetEncoder
        if hasattr(task, "model_choices"):
            task.model_choices.classes["espnet"] = ours
        if task in (espnet.st_task, espnet.cls_task):  # they name the class itself
            setattr(task, stock.__name__, ours)
