"""Offline scoring, on a fake classifier."""
