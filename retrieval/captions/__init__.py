"""Captions of photos: read from files next to them, from lists, and from the photo files.

The text formats of captioned photo sets are here, too: an index reads lists in the same formats.
"""
