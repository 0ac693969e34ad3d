"""The vectors of an index: what is searched, in one of several kinds behind one interface.

`rows` are the embeddings, mapped from disk, and exact search over them. `flat` puts parts together:
a stored part and the few rows that are newer. `ivf` and `hnsw` are approximate: FAISS gives
candidates, which are scored exactly. `gpu` copies rows to GPUs. `store` is the folder on disk,
`build` writes it, `tune` finds the setting of an approximate kind. What a vector means is decided
elsewhere.
"""
