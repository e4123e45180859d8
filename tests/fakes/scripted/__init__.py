"""Engines that play the model's part of a small coding task with every agent and in every API."""
