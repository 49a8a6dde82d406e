"""Checkpoints: what another machine needs to go on with a job."""
