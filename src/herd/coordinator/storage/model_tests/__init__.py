"""Stores what tests of models found: speeds of benchmark runs, and badges of `herd certify`."""
