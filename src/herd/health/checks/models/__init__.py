"""Checks of models: loading, pins, versions, context windows."""
