"""A run as one self-contained HTML page and as a closing table of plain text."""
