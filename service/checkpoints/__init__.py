"""Checkpoints: the files from which another machine goes on with a job."""
