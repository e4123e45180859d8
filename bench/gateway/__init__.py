"""What the coordinator costs as a gateway, beside nginx and sglang-router. See docs/benchmarks/gateway.md."""
