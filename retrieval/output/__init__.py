"""Output: results as text, as a page, and what is printed to a terminal."""
