"""Kills, freezes and cuts off the parts of a fleet under load, and accounts for every request."""
