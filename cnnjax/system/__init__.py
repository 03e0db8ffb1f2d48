"""System-level code, independent of networks: files, locks, archives, signals, standard output."""
