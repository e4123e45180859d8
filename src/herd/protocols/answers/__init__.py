"""Knows the forms in which engines answer."""
