"""Reading weight files safely."""
