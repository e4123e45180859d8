"""Runs on each machine as `herd-node`: sends heartbeats, reads sensors and connects the local engines."""
