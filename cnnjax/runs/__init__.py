"""A run's folder, launching and resuming it, and what is done with a trained network."""
