"""Pieces that strategies combine."""
