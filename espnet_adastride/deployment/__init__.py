"""Trained models without ESPnet: ONNX files and their runtime.

``onnx_file.py`` writes and reads a file, ``description.py`` describes its content,
``features.py`` computes the model's input, ``recogniser.py`` transcribes. None of them
imports ESPnet; writing needs torch, onnx and onnxscript, reading onnxruntime.
"""
