"""Let ESPnet give recordings of a few samples empty hypotheses.

Below ``n_fft / 2 + 1`` samples, torch cannot pad by reflection and raises a
``RuntimeError`` about padding sizes: decoding a whole set ends at a recording of 100
samples. ESPnet's tools already give an empty hypothesis, and a warning with the
utterance's name, where the subsampling finds too few frames (``TooShortUttError``); the
same error is raised here.
"""

import functools

from espnet_adastride.plugin import espnet


class TooShortAudioError(*espnet.TOO_SHORT_ERRORS):
    """A recording that is too short, as every decoder of ESPnet expects to hear it."""

    def __init__(self, message: str, actual_size: int, limit: int):
        # the bases' own one calls super() as if it had a single base
        Exception.__init__(self, message)
        self.actual_size, self.limit = actual_size, limit


class TooFewSamplesError(TooShortAudioError):
    """A recording that is shorter than the window of the Fourier transform needs."""

    def __init__(self, samples: int, least: int):
        super().__init__(
            f"has {samples} samples and is too short for the Fourier transform (it "
            f"needs {least} samples), return empty results",
            samples,
            least,
        )


def least_samples(stft) -> int:
    """Return how many samples a Fourier transform of ESPnet needs at least."""
    return stft.n_fft // 2 + 1 if stft.center else stft.n_fft


def refusing_short(forward):
    """Return ESPnet's ``Stft.forward`` changed so that it refuses short batches.

    Raises:
        TooFewSamplesError: by what it returns, if the longest utterance of the batch
            has fewer samples than one window needs.
    """

    @functools.wraps(forward)
    def wrapper(self, input, ilens=None):
        least = least_samples(self)
        if input.shape[1] < least:
            raise TooFewSamplesError(input.shape[1], least)
        return forward(self, input, ilens)

    wrapper.refuses_short = True
    return wrapper


def install() -> None:
    """Change ESPnet's Fourier transform in place; idempotent."""
    if not hasattr(espnet.Stft.forward, "refuses_short"):
        espnet.Stft.forward = refusing_short(espnet.Stft.forward)
