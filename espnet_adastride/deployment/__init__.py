"""Trained models without ESPnet: ONNX files, and what runs them.

``onnx_file.py`` writes and reads a file, ``description.py`` says what is in it,
``features.py`` makes what a model reads, ``recogniser.py`` transcribes. None of them
imports ESPnet; writing needs torch, onnx and onnxscript, reading onnxruntime.
"""
