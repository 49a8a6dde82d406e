"""Uploads: files that users bring, in parts that may come in any order and again."""
