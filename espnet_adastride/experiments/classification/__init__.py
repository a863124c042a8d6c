"""Classification of short recordings, with any downsampling method.

    recordings -> clips (corpora/clips.py) -> log-mel (features.py)
        -> stem, residual blocks (networks/resnet.py)
        -> mean over valid frames -> linear -> class (networks/classifier.py)

``training.py`` trains a method with a seed and writes its answers down, ``results.py``
compares methods by them, ``tables.py`` and ``pictures.py`` show it. The configuration
is ``options.py``'s.

No ESPnet, except in ``espnet_training.py``, which trains with its task ``cls``.
"""
