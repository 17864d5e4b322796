"""What the service reports about itself: request records, metrics, logs and traces."""
