"""Decides what the coordinator does: events in, commands out, without clock, socket, file, log or id source."""
