"""Models that turn photos and texts into embeddings, and the engines that compute them."""
