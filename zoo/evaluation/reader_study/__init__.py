"""Reader studies: can people tell generated images from real ones?"""
