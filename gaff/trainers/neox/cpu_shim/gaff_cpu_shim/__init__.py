# SPDX-License-Identifier: Apache-2.0
"""GAFF's CPU shim: ``torch.cuda`` lands on the CPU, DeepSpeed's CPU accelerator takes fp16, nothing else is touched.

Told what to do by two variables:

* ``GAFF_CPU_SHIM``: how many ranks run on this machine, which is how many GPUs there seem to be;
* ``GAFF_CPU_SHIM_ADAM``: ``deepspeed`` (default: its CPU kernel, which writes what its CUDA kernel writes) or
  ``torch`` (torch's AdamW, offered as Apex's FusedAdam: it works out its bias correction anew at each step, so a
  resumed run equals an unbroken one bit for bit).

It refuses to work where there is a GPU, unless ``GAFF_CPU_SHIM_BESIDE_GPUS`` is set, and says in the log that it works.
"""
