"""Every network that has weights, one file an architecture. Imports torch and nothing of ours."""
