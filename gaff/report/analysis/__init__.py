# SPDX-License-Identifier: Apache-2.0
"""What the series of a run say: recoveries, plateaus, their trend, what boundaries cost."""
