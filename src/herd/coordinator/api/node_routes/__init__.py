"""Serves the routes that act on single nodes."""
