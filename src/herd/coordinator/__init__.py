"""The coordinator process on :11435. All its I/O is in this room."""
