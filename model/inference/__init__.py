"""Classifiers: images in, classes out."""
