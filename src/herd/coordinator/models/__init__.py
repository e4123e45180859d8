"""Models on nodes: downloads, pins, loading and benchmarks."""
