"""Launchers: where the groups of a sweep train. `cnnjax.sweep.running.train_here` is the default."""
