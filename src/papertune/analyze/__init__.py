"""Papers read by the model, each to a structured analysis."""
