"""Kills and freezes nodes with real llama.cpp engines under load."""
