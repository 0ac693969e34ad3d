"""Attention fusion: several embeddings become one, with learned weights."""
