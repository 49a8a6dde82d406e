"""User models: trained networks, as teachers and as starts."""
