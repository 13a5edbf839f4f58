"""The gates between an exported file and a package, and the check of a finished package."""
