"""``python -m training``."""

from training.command import main

main()
