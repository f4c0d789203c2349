"""Datasets, SeqIO tasks and mixtures; nothing is registered on import."""
