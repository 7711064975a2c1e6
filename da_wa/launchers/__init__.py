"""Where jobs run: a launcher starts workers, and every worker runs the same loop."""
