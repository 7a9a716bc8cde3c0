"""Training: phases, frozen features, the loop, and what it leaves behind."""
