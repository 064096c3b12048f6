"""Reward sources: what training sees, and the normalisation that makes sources comparable."""
