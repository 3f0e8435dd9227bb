"""`python -m multi_abnormality COMMAND`."""

from multi_abnormality.cli import main

if __name__ == "__main__":
    main()
