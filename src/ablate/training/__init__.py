"""Supervised fine-tuning, reward models and preference training on TRL's trainers."""
