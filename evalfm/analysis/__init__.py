"""Reads runs and tables only: tables side by side and figures."""
