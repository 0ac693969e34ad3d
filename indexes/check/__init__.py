"""Check everything in an index against everything else, and repair what can be made again."""
