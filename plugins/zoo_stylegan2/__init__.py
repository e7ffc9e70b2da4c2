"""StyleGAN2-ADA for slices and volumes of any number of contrasts."""
