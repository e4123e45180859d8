"""Health checks, one file each, in groups. `discover` finds them; no check imports another."""
