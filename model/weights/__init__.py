"""Reading weights from files, safely."""
