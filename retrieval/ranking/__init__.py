"""Ranking: in what order hits come, and how probably each one matches."""
