"""Data sets: built-in ones, and user data sets, which jobs of kind `ingest` make."""
