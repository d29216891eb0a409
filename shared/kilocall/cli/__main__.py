"""`python -m kilocall.cli`, for where the command itself is not on the path."""

from kilocall.cli import main

if __name__ == "__main__":
    main()
