"""Embeddings that other programs computed, read into an index; an index written out for them.

Nothing is encoded here but a few texts or photos, to check a model.
"""
