"""From files to batches: tables (keys), datasets (which images), view (geometry), loader (tensors)."""
