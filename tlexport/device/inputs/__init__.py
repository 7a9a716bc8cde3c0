"""Convert an image file to the input tensor of the graph."""
