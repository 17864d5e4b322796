"""The networks, and how to recognise the network of a checkpoint."""
