"""The classifier: encoded images in, labelled predictions out."""
