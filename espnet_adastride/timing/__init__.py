"""Frames and seconds. Frame indices are not proportional to time here.

convolutions.py   where the frames of convolutions over samples are
boundaries.py     where the frames behind adaptive strides are
ctc.py            from CTC's frames to tokens and words in seconds
transcripts.py    transcripts with times: text, JSON, SRT, WebVTT, CTM
"""
