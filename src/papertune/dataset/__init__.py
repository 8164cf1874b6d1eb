"""Step 2: extracted text to training and validation examples."""
