"""Trained models without ESPnet: ONNX files and their runtime.

``conversion.py`` makes the program, ``description.py`` describes the file,
``features.py`` computes the model's input, ``recogniser.py`` transcribes. None of them
imports ESPnet; writing needs torch, onnx and onnxscript, reading onnxruntime.
"""
