"""Reading and writing photo files: upright, in sRGB, with all other data of the file kept."""
