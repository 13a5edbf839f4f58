"""Masks over slots: True = kept."""
