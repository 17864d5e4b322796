"""What makes the documentation site out of docs/: its hooks, its generated parts, its pictures."""
