"""TensorRT as a runtime, native and TensorRT-RTX by one code path. Engines are caches, built from the ONNX file."""
