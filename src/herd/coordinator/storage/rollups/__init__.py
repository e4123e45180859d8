"""Sums up traces per minute, hour and day, by node and model, app, tag and key: no page reads all traces."""
