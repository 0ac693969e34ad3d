"""What is kept on disk: the catalogue (SQLite), the vectors (FAISS) and the Index that joins them.

This package knows nothing of models, photos or queries: it stores rows and unit vectors and
finds the nearest ones. `retrieval` builds on it, never the other way round.
"""
