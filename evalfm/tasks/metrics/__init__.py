"""Metrics per kind of task with their intervals, patients resampled as wholes."""
