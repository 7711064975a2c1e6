"""Launchers start workers; every worker runs the same loop over the jobs."""
