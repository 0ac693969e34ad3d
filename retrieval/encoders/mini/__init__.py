"""`mini`, the built-in model: EfficientNet-Lite2 and MiniLM joined by trained heads."""
