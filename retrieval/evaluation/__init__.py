"""Evaluation: what is measured of rankings, fusions and relevance, and how sure it is."""
