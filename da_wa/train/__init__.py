"""One job: data and a model go in, trained weights and predictions come out."""
