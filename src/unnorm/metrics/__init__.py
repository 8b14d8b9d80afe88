"""Token-level arithmetic: sums of nats, correct tokens, saturation. Knows nothing of data, surgery or training."""
