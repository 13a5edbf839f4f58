"""`python cli.py ...` in a checkout is the same as the installed command `tsn ...`."""

from tsn_toolkit.command_line import main

if __name__ == "__main__":
    main()
