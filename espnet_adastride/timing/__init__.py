"""Conversion of frames to seconds: frame indices are not proportional to time here.

convolutions.py   frame times of convolutions over samples
boundaries.py     frame times after adaptive strides
ctc.py            from CTC's frames to tokens and words in seconds
transcripts.py    transcripts with times: text, JSON, SRT, WebVTT, CTM
"""
