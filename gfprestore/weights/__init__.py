"""Weights files: the table of released files, and how they are found, downloaded, verified and loaded."""
