"""Training what the package ships; nothing here is needed to search."""
