"""Photo files: read upright, written with everything else of the file kept."""
