"""Everything that draws or writes pages.

style.py        one dress for all charts; charts inside pages
utterance.py    one utterance: where its frames are, over its spectrogram
charts.py       trainings and corpora
experiments.py  one HTML page on one or more experiments
listening.py    recordings and their reconstructions, to be heard
pages.py        HTML in one file, from templates/
"""
