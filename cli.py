"""Starts the `mura` command from a checkout: `python cli.py --help`."""

from mura_fastai.cli import main

if __name__ == "__main__":
    main()
