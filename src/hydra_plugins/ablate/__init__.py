"""Hydra plugins of ablate: the sweeper and the launchers."""
