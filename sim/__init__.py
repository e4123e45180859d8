"""Simulates what surrounds the real core: a clock, nodes that behave like engines on real machines, and clients.

No decision is copied here. `world.py` feeds events to `Dispatcher.handle` and performs the commands that it returns;
this package models machines, engines, networks and clients.
"""
