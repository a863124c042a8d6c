"""Numbers from what was trained and decoded.

scoring.py            error rates, as sclite counts them
statistics.py         intervals and tests: bootstrap, exact, Welch, Holm
stride_statistics.py  local strides against what is said
learning_curves.py    epochs of a training, from ESPnet's log (logs.py reads its lines)
plan.py               a training planned: lengths, CTC, batches, cost
vqvae.py              error and bits a second of a VQ-VAE
"""
