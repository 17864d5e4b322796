"""XCiT image classifiers: checkpoints, preprocessing and inference. Knows nothing of HTTP."""
