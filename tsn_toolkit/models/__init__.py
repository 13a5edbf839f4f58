"""Example model factories that recipes name as `tsn_toolkit.models.<file>:<factory>`."""
