"""The process on each machine: heartbeats, sensors, the local engine. All its I/O is in this room."""
