"""Speech on disk: read, checked, cut, and written as Kaldi-style data directories.

audio.py         a file to samples; recordings.py: any recording at a model's rate
kaldi.py         data directories: the one reader and writer; datadir.py: checks
layouts.py       corpora as users keep them; own.py: your own recordings
librispeech.py, digits.py, mini_espeak.py (by espeak.py), clips.py, unlabelled.py
features.py      of frozen pretrained encoders; archives.py: Kaldi archives of them
perturb.py       copies at other speeds; tokens.py: token lists
lengths.py       how long the utterances of a training were
"""
