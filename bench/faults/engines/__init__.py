"""Runs scripted engines, each in a process of its own: deterministic answers, and failures on command."""
