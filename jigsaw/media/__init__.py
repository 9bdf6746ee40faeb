"""Pixels in: files become RGB images. Knows no task, no model and no prompt."""
