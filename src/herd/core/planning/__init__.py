"""Work for later: model placement, transfers, benchmarks and the replay of recorded decisions."""
