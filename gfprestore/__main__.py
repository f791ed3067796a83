"""`python -m gfprestore` is the same as `gfprestore`."""

from gfprestore.commands.app import main

if __name__ == "__main__":
    main()
