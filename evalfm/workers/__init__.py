"""Processes that work side by side, on this machine or on several: each has a device, keeps what it has loaded, and
makes calls that others send it."""
