"""The one way from images to scores and maps."""
