"""Faces: found, aligned, masked, pasted back."""
