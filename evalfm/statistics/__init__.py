"""Estimators and their intervals: arrays in, numbers out; imports nothing else of evalfm."""
