"""What to do: the pure heart. Events in, commands out; no clock, socket, file, log or id source in this room."""
