"""The commands, one a file: ``python -m espnet_adastride.bin.NAME --help``.

Each has ``get_parser()``, which returns its argument parser, and ``main(cmd=None)``,
which runs it with the arguments ``cmd`` (None: ``sys.argv``). Bad input ends it in one
line, status 1.
"""

from espnet_adastride.extras import name_missing_packages

name_missing_packages()
