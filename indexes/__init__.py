"""What is stored on disk: catalogue (SQLite), vectors (FAISS), and the Index that joins them.

This package knows nothing of models, images or what a query says: it stores rows and unit vectors
and finds the nearest ones. `retrieval` builds on it, never the other way round.
"""
