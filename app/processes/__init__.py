"""Several processes that serve together: HTTP workers, engines, and their supervisor."""
