"""The retouching operations of deepFRR, apart from the networks, so that reading an option does not import torch."""

OPERATIONS = ("smooth", "whiten", "eyes", "slim", "shrink", "brow")
"""The six retouching operations of deepFRR, in the order of the levels."""
