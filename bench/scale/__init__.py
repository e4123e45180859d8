"""Measures what a large fleet costs the coordinator: heartbeats, status pages and routing decisions."""
