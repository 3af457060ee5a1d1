"""Where results are logged besides files: Weights & Biases, MLflow, TensorBoard, or nowhere."""
