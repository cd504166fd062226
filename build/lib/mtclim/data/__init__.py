"""The table of images: reading it, its labels, its photographs."""
