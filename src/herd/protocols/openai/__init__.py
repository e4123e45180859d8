"""OpenAI's API in both directions: requests to engines, answers to clients."""
