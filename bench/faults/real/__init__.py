"""Kills, freezes and restarts real engines under load, and accounts for every request."""
