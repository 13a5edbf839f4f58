"""Static activation quantizers around the integer weights of the store."""
