"""The evaluator ``realism``: distances between generated and real images, for every method that samples."""
