"""Milvus: where the vectors of an index on many machines are searched.

The truth is the lake (`indexes.lake`): a collection can be made again from it.
"""
