"""Decides who may call which route, and which nodes belong to the fleet."""
