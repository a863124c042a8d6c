"""The commands, one a file: ``python -m espnet_adastride.bin.NAME --help``."""

from espnet_adastride.extras import name_missing_packages

name_missing_packages()
