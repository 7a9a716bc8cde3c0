"""Cost of a graph and its predicted latency and memory on a device, with an interval."""
