"""Run folders: training, resuming, and using trained networks."""
