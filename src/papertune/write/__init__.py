"""Long-form text by a tuned model."""
