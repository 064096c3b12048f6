"""ablate: ablation studies of preference optimisation in the RPO framework (arXiv 2502.00203)."""

__version__ = "0.1.0"
