"""Accuracy and calibration on labelled images."""
