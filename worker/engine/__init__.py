"""The trainer, as a program: python -m worker.engine. Knows torch; knows no Celery, database or HTTP."""
