"""Fill lesions in one pass of a small network."""
