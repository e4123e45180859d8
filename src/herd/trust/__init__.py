"""Authenticates and authorizes callers: API keys, permissions, web pages, addresses, pairing and signatures.

Both processes use this package. It does no I/O and reads no clock: times and random bytes are arguments.
`coordinator/` and `agent/` store the data and send the messages.
"""
