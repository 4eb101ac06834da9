"""How good masks and predictions are, and what a frame costs: figures over whole data sets."""
