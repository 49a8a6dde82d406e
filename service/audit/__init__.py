"""Audit: the log of changes, of refused requests, and of removals by retention."""
