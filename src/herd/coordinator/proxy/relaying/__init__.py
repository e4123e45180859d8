"""The parts of a relay: what is sent to a node, and what the client gets."""
