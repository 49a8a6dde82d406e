"""Blobs: bytes in the database, in chunks, and the columns that refer to them."""
