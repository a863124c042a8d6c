"""The version, in the one place that pyproject.toml and the package both read."""

__version__ = "0.4.0"
