"""Evaluation: held-out prompts are answered, the answers judged and compared with the reference."""
