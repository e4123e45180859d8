"""Defines the messages between an agent and the coordinator: the join request and the heartbeat."""
