"""Indexing: a folder of photos becomes an index, and stays in line with it."""
