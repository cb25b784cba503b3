"""``adkit compare``: runs side by side, on the images that all of them were tested on."""
