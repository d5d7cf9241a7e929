"""The command zbufd, as ``python -m zbuf.producer``."""

from zbuf.producer.cli import main

if __name__ == "__main__":
    main()
