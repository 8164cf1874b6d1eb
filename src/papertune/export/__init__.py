"""Step 4: adapter to GGUF and Ollama, in the memory of a laptop and without a compiler."""
