"""Joins task, encoder and head: `probe` makes runs, `predict` applies a finished one to other data."""
