"""Serves the routes of models: lists, pulls, copies, deletions, creation, and context windows."""
