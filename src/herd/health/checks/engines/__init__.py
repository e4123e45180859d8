"""Checks of inference engines: version, reachability, hung processes."""
