"""Discrete representations of speech, their rate made by any downsampling method.

    any folder (recordings.py) -> log-mel (log_mel.py) -> tokens -> log-mel (network.py)
        -> error and bits a second (measures.py) -> sounds (listening.py)

``results.py`` sets methods side by side. No ESPnet; it is trained by ESPnet's trainer
through ``plugin/vqvae_task.py``.
"""
