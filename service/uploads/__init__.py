"""Uploads: files of users, in parts that may come in any order and again."""
