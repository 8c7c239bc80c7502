"""Questions answered with numbers: `python -m benchmarks` lists them."""
