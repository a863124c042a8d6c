"""Networks built from the library, and files of models, without ESPnet.

resnet.py       residual network over time; any downsampling method makes its strides
classifier.py   log-mel frames to a class
vqvae.py        a VQ-VAE of speech; any method sets the rate of its tokens
log_mel.py      waves to log-mel frames, and back by Griffin-Lim
macs.py         multiply-accumulates by module
methods.py      one word names the methods of a run and their options
saving.py       torch.save that writes whole files, torch.load that names them
saved_models.py which files a training will leave; unpacking.py: packed models, safely
"""
