"""Output: results as text, as an HTML page, and printed to a terminal."""
