"""A fitted detector: what it is, how it predicts, and its files on disk."""
