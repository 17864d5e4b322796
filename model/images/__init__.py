"""Images: limits on their structure, decoding and preprocessing. Needs no PyTorch."""
