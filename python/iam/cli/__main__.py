"""``python -m iam.cli`` is the ``iam`` command."""

import sys

from iam.cli import main

if __name__ == "__main__":
    sys.exit(main())
