"""Training: takes data and a model, returns trained weights and predictions."""
