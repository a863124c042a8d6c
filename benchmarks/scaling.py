"""What LibriSpeech's 960 hours, 10,000 and 100,000 hours would take: on paper.

    python benchmarks/scaling.py [--tflops 100] [--epochs 35]

Measured here: multiply-accumulates of the published models' forward on an utterance of
--seconds (meta tensors, nothing is computed), their parameters, the bytes of an hour of
flac, and how much audio one core decodes in a second. The rest is arithmetic, printed
with the table: three forwards' work a training step (forward and two products
backward), --tflops that a GPU really reaches, Adam's state. It prints the tables of
docs/scaling.md and writes them to benchmarks/out/.
"""
