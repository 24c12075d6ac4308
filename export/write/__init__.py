"""Writers: a network whose layers have their final weights to an ONNX model, one file a form; and the model to a file."""
