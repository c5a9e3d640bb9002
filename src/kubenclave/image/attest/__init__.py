"""Say what is in an image, how it was built, and sign it: a CycloneDX SBOM, a SLSA provenance statement, a cosign signature.

Values in, documents out; only ``dpkg`` reads files, through a system root.
"""

from __future__ import annotations
