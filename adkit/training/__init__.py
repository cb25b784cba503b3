"""Adapting an extractor."""
