"""Implements HTTP/1.1 for both processes: the server, WebSocket frames, and a client for single requests."""
