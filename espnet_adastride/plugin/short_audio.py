"""Make ESPnet write empty hypotheses for recordings of a few samples.

Below ``n_fft / 2 + 1`` samples, torch cannot pad by reflection and raises a
``RuntimeError`` about padding sizes: one recording of 100 samples ends the decoding of
a whole set. If the subsampling gets too few frames (``TooShortUttError``), ESPnet's
tools already write an empty hypothesis and a warning with the utterance's name; the
same error is raised here.
"""

from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.imports import over


class TooShortAudioError(*espnet.TOO_SHORT_ERRORS):
    """A recording that is too short: the error that every decoder of ESPnet expects."""

    def __init__(self, message: str, actual_size: int, limit: int):
        # the bases' __init__ expects a single base
        Exception.__init__(self, message)
        self.actual_size, self.limit = actual_size, limit


class TooFewSamplesError(TooShortAudioError):
    """A recording that is too short for the window of the Fourier transform."""

    def __init__(self, samples: int, least: int):
        super().__init__(
            f"has {samples} samples and is too short for the Fourier transform (it "
            f"needs {least} samples), return empty results",
            samples,
            least,
        )


def least_samples(stft) -> int:
    """Return the fewest samples that a Fourier transform of ESPnet takes."""
    return stft.n_fft // 2 + 1 if stft.center else stft.n_fft


def _forward(stock, self, input, ilens=None):
    """Reject a batch whose longest utterance has fewer samples than one window."""
    least = least_samples(self)
    if input.shape[1] < least:
        raise TooFewSamplesError(input.shape[1], least)
    return stock(self, input, ilens)


def install() -> None:
    """Change ESPnet's Fourier transform in place; idempotent."""
    espnet.Stft.forward = over(espnet.Stft.forward, _forward)
