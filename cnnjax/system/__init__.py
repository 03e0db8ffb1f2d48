"""What keeps a run safe and knows nothing of networks: files, locks, archives, signals, standard output."""
