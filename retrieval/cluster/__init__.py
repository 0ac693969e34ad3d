"""Indexing on many machines: sources, workers and the run that drives them.

Ray places the workers, `indexes.lake` keeps what they make. One machine needs nothing of it.
"""
