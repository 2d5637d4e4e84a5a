"""`python -m evalfm` is `evalfm`."""

from evalfm.cli import main

if __name__ == "__main__":
    main()
