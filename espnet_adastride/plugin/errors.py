"""Mistakes of the user that deserve one clear line rather than a traceback."""


class PluginError(ValueError):
    """Base of what ``espnet_adastride.bin.run`` prints as one line."""


class ConfigurationError(PluginError):
    """A wrong word, key or value in the YAML configuration."""


class CheckpointMismatchError(PluginError):
    """A checkpoint whose parameters are not those of the configured model."""


class ModelError(PluginError):
    """A trained model that cannot be found, read or used as asked."""


class UnknownTimesError(PluginError):
    """When a model's frames are is not known, and something that needs it was asked."""


class NotFiniteError(PluginError):
    """Losses or statistics that are not numbers: nothing can be learned by them."""


class TrainingError(PluginError):
    """A training in which nothing is learned."""


class UnreadableAudioError(PluginError):
    """A recording of ``wav.scp`` that is gone or cannot be decoded."""

    def __str__(self) -> str:
        # a DataLoader raises a worker's error again, with its traceback as the message
        return super().__str__().rpartition(f"{type(self).__name__}: ")[2].strip()
