"""What travels between processes and clients, as values. Pure: no socket, no clock."""
