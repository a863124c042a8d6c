"""Comparisons: a grid of runs, a record of each that outlives the machine, tables.

definition.py      what is compared: conf/experiments/NAME.yaml
grid.py, runs.py   runs of a recipe, some at a time, resumable
records.py         what each run leaves in results/records; measure.py: its cost
tables.py          every table and picture, from records alone
rate_curves.py     one model at many rates
classification/    the same for classifiers; vqvae.py: for VQ-VAEs
"""
