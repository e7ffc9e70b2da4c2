"""Class-conditional GANs for multi-contrast patches, and a DCE phantom to train and judge them on."""
