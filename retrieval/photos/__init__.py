"""Photo files: found in folders, opened, decoded, and what their EXIF says."""
