"""The lake: Parquet files on shared storage, the source of truth of an index on many machines.

Nothing here knows who searches it.
"""
