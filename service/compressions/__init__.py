"""The catalogue of steps of compression."""
