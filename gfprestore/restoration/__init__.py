"""Restoration of single photos: load the networks, restore the faces, enlarge the background."""
