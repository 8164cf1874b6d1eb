"""Step 2: text files to training and validation examples."""

from papertune.cli import script

if __name__ == "__main__":
    script("prepare")
