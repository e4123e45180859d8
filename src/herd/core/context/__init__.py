"""Context windows: which window a request needs and which window a model should be loaded with."""
