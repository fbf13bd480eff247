"""Backends: eager torch, or exported graphs in ONNX Runtime or OpenVINO."""
