"""Image quality metrics with their protocols."""
