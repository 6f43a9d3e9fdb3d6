"""Training, ONNX, evaluation, importance, drift and search space."""
