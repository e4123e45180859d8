"""Translates the OpenAI, Ollama and Anthropic protocols to and from one neutral form, and reads byte streams."""
