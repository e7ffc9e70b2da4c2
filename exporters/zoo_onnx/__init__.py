"""ONNX: the file that other runtimes start from, what is verified of it, and ONNX Runtime as a backend."""
