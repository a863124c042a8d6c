"""The ESPnet side. Importing this package registers it with ESPnet.

* the input layer: ``subsampling.py``, which lists its parts (``trunk.py``,
  ``strides.py``, ``later_stages.py``, ``true_times.py`` ...);
* its encoders: ``encoders.py``, ``contextual.py`` (streaming), ``transducer.py`` (task
  ``asr_transducer``), ``resnet_encoder.py`` (task ``cls``);
* training: ``model.py`` (the auxiliary loss), ``trainer.py`` and ``finite.py``,
  ``vqvae_task.py``; before it, ``planning.py`` and ``training_cost.py``;
* a trained model: ``model_files.py`` and ``trained.py`` load it, ``greedy.py`` decodes,
  ``streaming.py``, ``exporting.py``; ``packing.py`` packs it;
* from frames to seconds: ``frame_times.py``, and ``frontends.py`` for feature frames;
* changes to ESPnet: ``register.py`` calls them all. ``espnet.py`` is the only file that
  imports ESPnet, ``imports.py`` makes these imports fast.
"""

from espnet_adastride.quiet import held_back

with held_back():  # ESPnet's imports print
    from espnet_adastride.plugin.register import register

    register()

__all__ = ["register"]
