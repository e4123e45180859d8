"""The HTTP/1.1 server: connections, request heads, bodies and answers, and WebSocket frames."""
