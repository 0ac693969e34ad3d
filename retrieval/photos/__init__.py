"""Photo files: find them in folders, open and decode them, read their EXIF."""
