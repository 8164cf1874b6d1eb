"""Step 1: PDF and EPUB files to clean text."""

from papertune.cli import script

if __name__ == "__main__":
    script("extract")
