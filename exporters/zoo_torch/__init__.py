"""Torch as a runtime, eager and compiled; both run the model file itself."""
