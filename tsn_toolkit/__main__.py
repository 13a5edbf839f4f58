"""`python -m tsn_toolkit` is `tsn`."""

from tsn_toolkit.command_line import main

if __name__ == "__main__":
    main()
