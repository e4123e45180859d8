"""The path of an inference request: parsing, relaying, retries and continuation."""
