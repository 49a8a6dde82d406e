"""The Celery worker: an agent that claims jobs, holds their leases, owns the engine's process and reports."""
