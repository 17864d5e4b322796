"""Descriptions of checkpoints: labels, preprocessing and the origin of each value."""
