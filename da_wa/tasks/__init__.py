"""Tasks other than classification: how their networks are trained and evaluated."""
