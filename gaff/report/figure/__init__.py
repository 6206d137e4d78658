# SPDX-License-Identifier: Apache-2.0
"""The loss curve as a picture (PNG, SVG), and what pictures and pages draw alike: points, ranges, ticks."""
