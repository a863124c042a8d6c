"""Work in threads: results in order, and not all of them at once."""

import weakref

from espnet_adastride.progress import in_threads


def test_results_are_let_go_once_they_are_taken():
    class Result:
        def __init__(self, number):
            self.number = number
            made.append(weakref.ref(self))

    made, taken, most = [], [], 0
    for result in in_threads(Result, range(100), 2):
        taken.append(result.number)
        most = max(most, sum(one() is not None for one in made))
    assert taken == list(range(100))
    assert most < 25
