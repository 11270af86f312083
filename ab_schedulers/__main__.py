"""`python -m ab_schedulers` is the command `ab-schedulers`."""

import sys

from ab_schedulers.cli import main

sys.exit(main())
