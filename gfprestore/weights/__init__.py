"""Weights files: known, found, downloaded, verified, loaded."""
