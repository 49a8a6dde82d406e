"""Claims: a worker's right to a job, and what it may do with it: each a step of one transaction."""
