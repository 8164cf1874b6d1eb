"""The demo: small papers of our own, and the walk through the four steps on them."""
