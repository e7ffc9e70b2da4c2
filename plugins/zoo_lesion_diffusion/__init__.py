"""Diffusion for MS lesions (Uhr 2024): filling them with healthy tissue."""
