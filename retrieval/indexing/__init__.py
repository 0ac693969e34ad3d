"""Make an index of folders of photos, and bring it up to date after changes."""
