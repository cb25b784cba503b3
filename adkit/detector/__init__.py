"""A fitted detector: what it is, what it makes of images, and its files."""
