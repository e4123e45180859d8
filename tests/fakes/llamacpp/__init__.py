"""Runs real llama.cpp engines with tiny models for tests."""
