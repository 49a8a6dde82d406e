"""The trainer, as a program: python -m retort.engine. Knows torch; knows no Celery, database or HTTP."""
