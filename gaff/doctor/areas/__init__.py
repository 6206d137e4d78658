# SPDX-License-Identifier: Apache-2.0
"""One module an area.  ``gather`` asks the system for facts, ``judge`` turns facts into findings and asks nothing."""
