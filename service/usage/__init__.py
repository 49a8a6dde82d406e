"""Usage: what a project may use of the service, and what it uses."""
