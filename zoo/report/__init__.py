MARK = "mri-zoo"
"""In the metadata of every picture: the program recognises its own files by it."""
