"""Training and test data: degraded, prepared, listed, loaded."""
