"""Admission, decoding, micro-batching and engines, without HTTP and PyTorch."""
