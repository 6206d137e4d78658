# SPDX-License-Identifier: Apache-2.0
"""What GPT-NeoX's own Python loads where there is no GPU: this directory goes onto its PYTHONPATH.

``sitecustomize.py`` is what Python imports by itself at every start; ``gaff_cpu_shim`` does the work.  Nothing in here
imports the rest of GAFF, which GPT-NeoX's environment does not have, or changes a file of GPT-NeoX or DeepSpeed.
"""
