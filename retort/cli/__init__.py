"""The command `retort`."""
