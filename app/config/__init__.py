"""Settings, and the limits that the environment sets."""
