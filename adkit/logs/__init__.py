"""What a run tells TensorBoard, MLflow and Weights & Biases, by Ignite's own loggers."""
