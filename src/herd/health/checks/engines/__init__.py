"""Checks of inference engines: version, vulnerabilities, reachability, hung processes."""
