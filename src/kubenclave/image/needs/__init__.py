"""What a program needs that its list of needed libraries does not show: libraries opened by name, and files of the system around it.

Finds words in files and decides by tables; runs nothing.
"""

from __future__ import annotations
