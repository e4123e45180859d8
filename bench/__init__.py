"""Benchmarks of the whole product; each is run with `python3 dev.py bench NAME`."""
