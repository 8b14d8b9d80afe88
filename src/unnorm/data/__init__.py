"""Data: sources to conversations to encoded rows to packed batches. Knows tokenizers, but no models and no surgery."""
