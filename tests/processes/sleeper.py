"""A process that does nothing, as a child of the supervisor."""

import time

if __name__ == "__main__":
    time.sleep(60)
