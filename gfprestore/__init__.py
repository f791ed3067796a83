"""Restores folders of old photos: faces with GFP-GAN, the rest with Real-ESRGAN, everything else of the file kept."""

__version__ = "0.1.0"
