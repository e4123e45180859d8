"""The clients that herd can configure, one file each."""
