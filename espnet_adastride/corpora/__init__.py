"""Speech on disk: read, checked, cut, and written as Kaldi-style data directories.

audio.py        decode a file to samples; recordings.py: at a model's rate
kaldi.py        read and write the files of data directories; datadir.py: check them
layouts.py      common layouts of corpora; own.py: your own recordings
librispeech.py, digits.py, mini_espeak.py (with espeak.py), clips.py, unlabelled.py
features.py     features of frozen pretrained encoders; archives.py: in archives
perturb.py      copies at other speeds; tokens.py: token lists
lengths.py      lengths of the training utterances
"""
