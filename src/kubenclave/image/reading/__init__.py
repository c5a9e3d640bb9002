"""Look into images of anyone: from an archive, a layout directory or a registry.

All of it is hostile until its digest is checked, and its content is hostile after that, too: memory, time and numbers are bounded, no path
is followed out of where it belongs, nothing is unpacked to disk.
"""

from __future__ import annotations
