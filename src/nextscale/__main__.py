"""``python -m nextscale`` is the command ``nextscale``."""

from nextscale.cli.main import main

if __name__ == "__main__":
    main()
