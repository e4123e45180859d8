"""Translates between Anthropic's API and the neutral form, for clients."""
