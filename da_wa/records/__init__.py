"""What was planned and what came out: typed records, saved outputs, identities. Never imports torch."""
