"""Images: structural limits, decoding and preprocessing. Does not need PyTorch."""
