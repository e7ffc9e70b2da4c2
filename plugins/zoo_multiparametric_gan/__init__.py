"""DCGAN and WGAN for patches of any number of contrasts, with a class that can be asked for."""
