"""papertune: from a folder of papers to a local model that writes in their domain."""

__version__ = "0.1.0"
