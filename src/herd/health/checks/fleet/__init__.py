"""Checks of the whole fleet and its traffic."""
