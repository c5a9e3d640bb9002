"""Images as the Open Container Initiative writes them down: documents, compressed layers, archives and layout directories.

This folder knows bytes and files; what is in an image is decided elsewhere. Formats: OCI image-spec v1.1.
"""

from __future__ import annotations
