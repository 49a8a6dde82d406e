"""Data sets: those that come along, and users' own, which jobs of kind `ingest` make."""
