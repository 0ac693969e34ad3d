"""Encoders: models that turn photos and texts into unit vectors of one shared space."""
