"""Speech on disk: read, checked, cut, and written as Kaldi-style data directories.

audio.py        decode a file to samples; recordings.py: at a model's rate
kaldi.py        read and write the files of data directories; datadir.py: check them
separated.py    read CSV and TSV
own/            your own recordings, in any of the common layouts
librispeech.py, digits.py, mini_espeak/ (with espeak.py), clips.py, unlabelled.py
downloads.py    some of them, from their publishers; espnet_clips.py: for ESPnet
features.py     frozen pretrained encoders, with whisper_mel.py and upstream_record.py
archives.py     their features, in archives
perturb.py      copies at other speeds; tokens.py: token lists
lengths.py      lengths of the training utterances
"""
