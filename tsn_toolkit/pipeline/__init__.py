"""The whole way from a recipe to a report; `stages.py` reads top to bottom."""
