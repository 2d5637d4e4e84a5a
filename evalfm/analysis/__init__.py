"""Reads runs and tables only: compared tables and figures."""
