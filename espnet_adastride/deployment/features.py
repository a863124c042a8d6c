"""Input features of exported models that read audio, without torch: log-mel frames."""

from typing import Any, Dict

import numpy as np

from espnet_adastride.corpora.whisper_mel import power_spectrum
from espnet_adastride.deployment.description import unpack_array


class LogMel:
    """Log-mel frames of ESPnet's ``frontend: default`` from samples.

    Args:
        content: ``frontend`` in the description.
    """

    def __init__(self, content: Dict[str, Any]):
        self.content = content
        self.window = unpack_array(content["window"])
        self.mel = unpack_array(content["mel"])

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Return (T, n_mels) float32 of samples (n,)."""
        own = self.content
        power = power_spectrum(
            wave, self.window, own["n_fft"], own["hop"], own["center"]
        )
        if own["normalized"]:
            power /= own["n_fft"]
        mels = np.log(np.maximum(power @ self.mel, np.float32(1e-10)))
        base = own["log_base"]
        return (mels if base is None else mels / np.log(base)).astype(np.float32)
