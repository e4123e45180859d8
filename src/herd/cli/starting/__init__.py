"""Starts the two processes, and loads their settings."""
