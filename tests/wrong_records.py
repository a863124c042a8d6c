"""Records with one wrong value, for the tests of what reads them."""

import pytest

from espnet_adastride.errors import UserError
from espnet_adastride.experiments.records import write_record


def refusal(path, content, place, value, read):
    """Write a record with another value at a place; return the line that refuses it.

    Args:
        path: of the file.
        content: a record that can be read; it is changed.
        place: keys, separated by spaces.
        value: the wrong value.
        read: function of the path that raises the error.
    """
    *inside, last = place.split()
    part = content
    for name in inside:
        part = part[name]
    part[last] = value
    write_record(path, content)
    with pytest.raises(UserError) as error:
        read(path)
    line = str(error.value)
    assert line.startswith(f"{path}: cannot be read as a record (")
    return line
