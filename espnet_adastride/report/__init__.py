"""Pictures, charts and pages.

style.py        common style of all charts; charts in pages
utterance.py    one utterance: its frames over its spectrogram
charts.py       trainings and corpora
experiments.py  one HTML page about one or more experiments
listening.py    a page to listen to recordings and reconstructions
plan.py         the page about a planned training
tables.py       Markdown tables; model_card.py: the card of a packed model
pages.py        self-contained HTML pages from templates/
"""
