# SPDX-License-Identifier: Apache-2.0
"""The command line: one module per family of verbs.  A module parses, calls the layer that does the work, and prints.

Importing a module here must stay cheap (``gaff --help`` imports them all): whatever needs numpy, rich or more is
imported inside the verb.
"""
