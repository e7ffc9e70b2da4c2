"""Torch as a runtime, eager and compiled. The model file is the artifact."""
