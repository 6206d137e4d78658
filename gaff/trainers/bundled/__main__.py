# SPDX-License-Identifier: Apache-2.0
"""``python -m gaff.trainers.bundled CONFIG.yml``."""

import sys

from gaff.trainers.bundled.launch import main

sys.exit(main(sys.argv[1:]))
