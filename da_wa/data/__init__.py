"""Images on disk → batches. Imports nothing else of ``da_wa`` but ``errors``."""
