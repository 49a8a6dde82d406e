"""Usage: the limits of projects, and what they use."""
