"""ONNX: writes and verifies the file from which other runtimes start, and runs it with ONNX Runtime."""
