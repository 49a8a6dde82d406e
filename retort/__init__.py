"""Distillation: contracts, registries, the engine, the client and the command line. No server, database or Celery."""
