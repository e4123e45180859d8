"""Runs real coding agents and SDKs for Node, pinned in package.json, against any server."""
