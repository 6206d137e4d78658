# SPDX-License-Identifier: Apache-2.0
"""Metrics for other programs to show: TensorBoard's event files, Weights & Biases, MLflow.

Each is an observer of the supervisor (:mod:`gaff.report.trackers.tracker`) over one sink.  TensorBoard's is written in
the supervisor itself; the libraries of the other two run in a process of their own, so that whatever they do, the run
neither waits nor ends.
"""
