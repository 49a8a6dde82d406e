"""The catalogue of tasks."""
