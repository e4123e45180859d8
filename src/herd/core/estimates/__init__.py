"""Predictions from measured requests: speeds, answer lengths, cache hits, memory, demand."""
