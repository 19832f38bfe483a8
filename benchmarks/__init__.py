"""How fast and how large it is, one module for each subject. In the root: `python -m benchmarks.moe`."""
