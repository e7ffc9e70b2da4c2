"""TensorRT as a runtime: native TensorRT and TensorRT-RTX in one code path; engines are caches of the ONNX file."""
