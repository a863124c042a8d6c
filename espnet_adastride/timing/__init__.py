"""Frames and seconds."""
