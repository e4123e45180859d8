"""Provides the test doubles: a fake Ollama, tiny real llama.cpp engines, and a running fleet of both."""
