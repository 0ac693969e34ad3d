"""Captioned photo sets for benchmarks and training, and a cache of their embeddings."""
