"""Step 4: adapter to GGUF and Ollama Modelfile."""

from papertune.cli import script

if __name__ == "__main__":
    script("export")
