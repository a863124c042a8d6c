"""Put the plugin into ESPnet's registries, in place.

ESPnet reads no entry points: whoever wants the plugin imports
``espnet_adastride.plugin``, or runs ESPnet's tools through ``python -m
espnet_adastride.bin.run``.
"""

from espnet_adastride.plugin import encoders
from espnet_adastride.plugin.espnet import asr_task
from espnet_adastride.plugin.model import AdaStrideASRModel

ENCODERS = {
    "conformer": encoders.ConformerEncoder,
    "e_branchformer": encoders.EBranchformerEncoder,
    "branchformer": encoders.BranchformerEncoder,
    "transformer": encoders.TransformerEncoder,
}


def register() -> None:
    """Let ESPnet's asr task build the plugin's encoders and model; idempotent.

    ``ASRTask.build_model`` reads these module-level registries, so they are changed in
    place; it must happen before ``ASRTask.get_parser()``.
    """
    asr_task.encoder_choices.classes.update(ENCODERS)
    asr_task.model_choices.classes["espnet"] = AdaStrideASRModel
