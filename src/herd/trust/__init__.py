"""Authenticates and authorizes callers: API keys, permissions, web pages, addresses, pairing and signatures.

Both processes use this package. It is pure: times and random bytes are arguments, and a decision is the result.
`coordinator/` and `agent/` store and send.
"""
