"""Runs over folders: planned, journaled, scheduled."""
