# SPDX-License-Identifier: Apache-2.0
"""``python -m gaff`` is the same program as ``gaff``."""

from gaff.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
