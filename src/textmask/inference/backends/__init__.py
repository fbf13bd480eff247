"""What runs a model: eager torch, or exported graphs in ONNX Runtime or OpenVINO."""
