"""``adkit export``: writes a detector as a file that another runtime reads."""
