"""Captions of photos: read from files beside them, from lists, and from the photo files."""
