"""Measurements of the engine: each module runs alone, as `python -m benchmarks.NAME`."""
