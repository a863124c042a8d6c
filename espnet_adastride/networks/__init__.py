"""Networks built from the library, and model files, without ESPnet.

resnet.py         residual network over time, downsampled by any method
classifier.py     log-mel frames to a class
vqvae.py          a VQ-VAE of speech; any method sets the rate of its tokens
log_mel.py        waves to log-mel frames, and back by Griffin-Lim
macs.py           multiply-accumulates by module
methods.py        parse the methods of a run and their options
saving.py         atomic torch.save; torch.load that names the file in errors
saved_models.py   model files that a training will save
unpacking.py      unpack models safely
"""
