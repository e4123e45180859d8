"""Connections from the coordinator to engines."""
