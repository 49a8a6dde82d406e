"""Keeping: for how long ended jobs, data sets and models stay, and the removal of what is older."""
