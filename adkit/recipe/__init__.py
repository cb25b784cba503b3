"""Recipes: how they are read, checked and explained."""
