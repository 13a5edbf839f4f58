"""The store: one folder in which every task is one small immutable file."""
