"""From a file to the tensor that enters the graph."""
