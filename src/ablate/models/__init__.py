"""Tokenizers, language models, and the log-probabilities and scores they give."""
