"""The catalogue of architectures."""
