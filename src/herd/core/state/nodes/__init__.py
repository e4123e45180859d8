"""Defines the parts of a node: its machine, and what an administrator has set for it."""
