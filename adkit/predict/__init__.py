"""``adkit predict``: scores new images, and writes their rows and heatmaps."""
