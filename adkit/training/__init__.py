"""Adapting an extractor to the normal images of a category."""
