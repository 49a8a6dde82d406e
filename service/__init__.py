"""The front end: HTTP, the database, and nothing that computes. Never imports torch."""
