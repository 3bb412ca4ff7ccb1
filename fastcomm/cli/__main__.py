"""``python -m fastcomm.cli``: the same as the ``fastcomm`` command."""

from fastcomm.cli import main

if __name__ == "__main__":
    main()
