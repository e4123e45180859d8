"""A stand-in for an Ollama server, held to recordings of a real one."""
