"""`python -m turntable`: the command, for launchers that start modules."""

from turntable.cli import main

if __name__ == "__main__":
    main()
