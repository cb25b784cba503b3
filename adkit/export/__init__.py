"""``adkit export``: a detector as a file of another runtime."""
