"""One endpoint for every machine you own. Holds nothing but the version."""

__version__ = "0.1.0"
