"""A world for the real core: a clock that jumps, nodes that behave like engines on real machines, clients, and nothing else.

No decision is copied here. `world.py` feeds `Dispatcher.handle` and performs the commands that it returns; what stands
here is what stands around the core in life: machines, engines, networks, people.
"""
