"""A bundle leaves as a graph that holds everything: resize, crop, network, temperature, softmax or sigmoid."""
