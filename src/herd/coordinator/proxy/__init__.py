"""Carries out inference requests: parsing, relaying, retries and continuation."""
