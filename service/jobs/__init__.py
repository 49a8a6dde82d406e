"""Jobs: the life of a job's row, its rules and its event log."""
