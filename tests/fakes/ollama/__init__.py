"""Provides a fake Ollama server that is checked against recordings of a real one."""
