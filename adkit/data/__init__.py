"""From files to batches: formats (keys and readers), dataset (which images), view (geometry), loader (tensors)."""
