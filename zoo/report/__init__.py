MARK = "mri-zoo"
"""Stands in the text of every picture, so that the program knows its own."""
