"""Request records, metrics, logs and traces."""
