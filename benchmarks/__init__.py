"""Measurements of the engine. Most modules run alone, as `python -m benchmarks.NAME`."""
