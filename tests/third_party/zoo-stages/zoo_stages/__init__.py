"""Sample slices with an autoencoder, a prior and a refiner, trained in stages."""
