"""Audit: who changed what, and when; who was not let; and what was removed because its time was over."""
