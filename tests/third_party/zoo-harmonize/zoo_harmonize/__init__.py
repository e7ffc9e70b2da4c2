"""Harmonize scans: give a scan the intensity curve of the scans that a model was trained on."""
