"""OpenVINO as a runtime for Intel and AMD processors."""
