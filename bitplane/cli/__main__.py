"""`python -m bitplane.cli`."""

import sys

from bitplane.cli import main

sys.exit(main())
