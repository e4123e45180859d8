"""Opens and uses the connections from the coordinator to engines."""
