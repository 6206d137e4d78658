# SPDX-License-Identifier: Apache-2.0
"""Slurm and Grid Engine: job scripts from profiles, submission, and what a running job asks of its scheduler."""
