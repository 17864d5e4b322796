"""The networks, and how a checkpoint shows which of them it is for."""
