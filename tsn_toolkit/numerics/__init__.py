"""Numbers without models: bit packing, half-precision vectors, one-dimensional k-means, entropy coding."""
