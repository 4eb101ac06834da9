"""How good the masks are: J and F as DAVIS defines them, and runs over whole data sets."""
