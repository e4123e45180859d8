"""One file a check. This folder is found by `discover`; the checks do not know each other."""
