"""Images on disk → batches. Knows nothing else of ``da_wa`` but its errors."""
