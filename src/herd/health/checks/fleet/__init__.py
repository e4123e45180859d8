"""Checks of the fleet as a whole, its traffic and the coordinator."""
