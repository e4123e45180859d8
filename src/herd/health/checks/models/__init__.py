"""Checks of models: loading, pins, context windows."""
