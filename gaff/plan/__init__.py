# SPDX-License-Identifier: Apache-2.0
"""From config files to a plan: read and check everything before anything starts.

Touches no checkpoint, starts nothing, imports neither numpy nor torch.
"""
