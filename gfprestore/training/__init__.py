"""Training as the paper does it: data, degradation, losses, recipe and loop."""
