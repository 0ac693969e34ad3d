"""Search: from a query to hits, a step a module. Reads an index, never changes it."""
