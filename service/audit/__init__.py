"""Audit: who changed what, and when; and who was not let."""
