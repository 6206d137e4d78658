# SPDX-License-Identifier: Apache-2.0
"""The operations: each works out what changes (a plan), ``perform`` does it so that it can be killed anywhere."""
