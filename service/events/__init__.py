"""Events: reading and following the event logs of jobs."""
