"""Recipes: validation against data sets, models and earlier jobs, and the jobs made of them."""
