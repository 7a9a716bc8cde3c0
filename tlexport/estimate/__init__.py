"""Cost of a graph, and what it will take on a device: predicted, with an interval, and never mixed up with a measurement."""
