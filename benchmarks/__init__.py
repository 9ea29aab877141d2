"""How fast cellkit is, as ratios against a peer in the same run: ``python -m benchmarks``."""
