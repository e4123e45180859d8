"""Translates between OpenAI's API and the neutral form, for clients and for engines."""
