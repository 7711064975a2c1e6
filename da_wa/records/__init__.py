"""Typed records, saved outputs and identities of runs. Never imports torch."""
