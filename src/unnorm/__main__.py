"""`python -m unnorm`."""

from unnorm.cli.main import main

if __name__ == "__main__":
    main()
