# SPDX-License-Identifier: Apache-2.0
"""Several runs beside each other: ``gaff compare``.

:mod:`.runs` reads them, :mod:`.configs` says what differs between their configs and which of them differ in seeds
alone, :mod:`.figures` works out what is compared, :mod:`.table` and :mod:`.latex` write it down, :mod:`.page` draws it.
"""
