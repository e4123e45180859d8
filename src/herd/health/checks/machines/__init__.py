"""Checks of machines: memory, disk, clock, heat, network."""
