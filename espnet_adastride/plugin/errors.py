"""Mistakes of the user that deserve one clear line rather than a traceback."""


class PluginError(ValueError):
    """Base of what ``espnet_adastride.bin.run`` prints as one line."""


class ConfigurationError(PluginError):
    """A wrong word, key or value in the YAML configuration."""


class CheckpointMismatchError(PluginError):
    """A checkpoint whose parameters are not those of the configured model."""


class ModelError(PluginError):
    """A trained model that cannot be found, read or used as asked."""
