"""A recipe: read, checked, explained."""
