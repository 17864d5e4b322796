"""Admission, decoding, micro-batches and the model's life. Knows neither HTTP nor PyTorch."""
