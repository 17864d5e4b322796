"""Descriptions of checkpoints: labels, preprocessing and where each was learned from."""
