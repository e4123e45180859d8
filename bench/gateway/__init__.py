"""Measures the coordinator's cost as a gateway; docs/benchmarks/gateway.md describes it."""
