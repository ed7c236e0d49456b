"""What the bytes of a model file mean: the GGUF container and the block formats."""
