"""Gives one endpoint for all your machines that run inference engines."""

__version__ = "0.1.0"
