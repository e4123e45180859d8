"""What the operating system knows of a TCP connection, and what can be set."""
