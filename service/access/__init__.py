"""Access: the caller of a request, what the key may do, and what the audit log notes of it."""
