"""`python3 dev.py bench routing`: how well requests are routed, by the real core in a simulated world (`sim/`)."""
