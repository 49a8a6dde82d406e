"""The Python client of the service: HTTP only."""
