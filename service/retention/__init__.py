"""Retention: the removal of ended jobs, data sets and models that are older than their project keeps them."""
