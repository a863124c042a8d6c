"""Comparisons: a grid of runs, a record of each that outlives the machine, tables.

definition.py      what is compared: conf/experiments/NAME.yaml
grid.py            runs, and the one loop over them: parallel, resumable
runs.py            runs of a recipe; folders.py: runs that are functions
records.py         the record that every run leaves; measure.py: a model's cost
tables.py          every page, from records alone; pictures.py: its pictures
comparison.py      tables of error rates and their differences, from cells.py
classification/    training and tables of classifiers; vqvae_training.py and
vqvae.py           those of VQ-VAEs
rate_curves.py     one model at many rates
"""
