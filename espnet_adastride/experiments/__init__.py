"""Comparisons: a grid of runs, a record of each that outlives the machine, tables.

definition.py   what is compared (YAML)
runs.py         runs through a recipe; a run with a record is done
measure.py      what a trained model costs, and what CTC cannot align
records.py      the record of a run: gzip JSON, in git
tables.py       every table and picture, from records alone
"""
