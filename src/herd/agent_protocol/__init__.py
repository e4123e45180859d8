"""The messages between an agent and the coordinator: joining and heartbeats."""
