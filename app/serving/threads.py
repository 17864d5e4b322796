"""Settings of Python's threads."""

# Switch interval of Python threads. With the default of 5 ms, a thread that has decoded an image or
# run a batch waits for the event loop while cores are idle.
TURN_SECONDS = 5e-5
