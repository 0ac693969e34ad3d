"""Evaluation: measuring rankings, fusions and relevance, with confidence intervals."""
