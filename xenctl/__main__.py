"""`python -m xenctl` is the `xenctl` command."""

from .cli import main

if __name__ == "__main__":
    main()
