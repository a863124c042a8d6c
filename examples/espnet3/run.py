"""An ESPnet3 recipe: import the plugin and set ``input_layer: adastride``.

    DATA=/path/to/data python run.py \
        --stages create_dataset train_tokenizer collect_stats train infer \
        --training_config conf/training.yaml --inference_config conf/inference.yaml

DATA holds train, valid and test, with wav.scp and text in each. Any other recipe for
ESPnet3's system esp2_asr runs with ``python -m espnet_adastride.bin.run run.py ...``.
"""

from espnet3.systems.esp2_asr.system import ASRSystem
from espnet3.systems.launch import launch

# at the top: workers import this file again
import espnet_adastride.plugin  # noqa: F401  (registers the plugin)

if __name__ == "__main__":
    launch(ASRSystem)
