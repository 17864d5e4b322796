"""Quantising a checkpoint to 8-bit integers, and measuring what it costs and saves."""
