"""The ESPnet side: importing this package registers the ``input_layer`` words.

``subsampling.py`` is the input layer and names the files it is composed of,
``encoders.py`` teaches ESPnet's encoders its
words, ``model.py`` adds the positioning loss to the training loss, ``register.py`` puts
the three into ESPnet's registries.
"""

from espnet_adastride.plugin.register import register

register()

__all__ = ["register"]
