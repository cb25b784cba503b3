"""From files to batches: tables (keys), datasets (which pictures), view (geometry), loader (tensors)."""
