"""Torch as a runtime: eager for now. Needs no compiling; the model file is the artifact."""
