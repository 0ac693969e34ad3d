"""Attention fusion: several embeddings become one, with trained weights."""
