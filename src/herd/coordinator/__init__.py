"""The coordinator process, with all of its network, disk and clock access."""
