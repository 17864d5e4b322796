"""Reading request bodies, in pieces and within bounds."""
