"""Keys: making, rotating and revoking them, and authentication."""
