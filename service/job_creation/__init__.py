"""Making jobs of any kind: idempotency keys, limits, and the queue."""
