"""Training: recipes, data and optimisers. Not part of the installed service."""
