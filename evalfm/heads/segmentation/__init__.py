"""Heads that give a probability to every pixel, and their common training."""
