"""Lock a folder for the calling shell: ``exec 9>>F; lock_folder 9 F``, F: its file."""

import datetime
import os
import sys
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_switch, command
from espnet_adastride.files import lock


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "fd", type=int, help="file descriptor of the lock file, open for appending"
    )
    parser.add_argument("lock_file", help="name of the lock file")
    add_switch(parser, "--wait", "wait instead of failing")
    return parser


@command(get_parser)
def main(args):
    who = f"process {os.getppid()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
    lock(args.fd, Path(args.lock_file), args.wait, who)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
