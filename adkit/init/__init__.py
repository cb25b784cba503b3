"""``adkit init``: from a folder to a first recipe."""
