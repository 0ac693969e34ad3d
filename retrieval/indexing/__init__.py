"""The index journey: from folders of photos to an index, and back up to date after changes."""
