"""Checks of a machine: memory, disk, clock, heat, network."""
