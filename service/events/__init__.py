"""Events: the numbered diary of a job."""
