"""The fast engine: Mistral and Llama layers forward and backward by hand. Begin at ``engine``; ``reference.py`` beside it is what it must equal."""
