"""Face detection, alignment, masks and pasting."""
