"""``adkit predict``: rows and heatmaps of new images."""
