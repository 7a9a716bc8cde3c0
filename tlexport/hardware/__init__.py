"""Hardware profiles: their files, the machine that runs, and the figures that estimates use."""
