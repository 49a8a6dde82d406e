"""Models: trained networks that users bring, as teachers and as starts."""
