"""Jobs: one run of one recipe each."""
