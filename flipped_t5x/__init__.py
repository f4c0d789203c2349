"""Flipped learning in JAX: guess the instruction, rank the labels."""

__version__ = '0.1.0'
