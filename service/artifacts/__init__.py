"""Artifacts: the files that jobs made."""
