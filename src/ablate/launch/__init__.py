"""Launching: sweeps of frozen runs on this machine (and, later, on SLURM)."""
