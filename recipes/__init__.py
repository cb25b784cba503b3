"""The ready recipes, installed as ``adkit_recipes``, so that ``adkit run padim`` finds one by its name."""
